// Package config reads a service's settings from the environment and prints what they are.
//
// A setting is a struct field with the tags of caarlos0/env plus two of ours: desc says what it is for,
// unit what it is measured in where its type does not say. A field tagged secret:"true" is never printed.
package config

import (
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/caarlos0/env/v11"
)

// Load reads the settings into a copy of defaults. environ is in os.Environ's form. Every bad variable is
// named in the error, not just the first. A Validate method on *T, where there is one, has the last word.
func Load[T any](defaults T, environ []string) (T, error) {
	cfg := defaults
	// The shared defaults of the tags fill what the service's own leave open; then the environment wins over both.
	// One call cannot do it: the library either lets a tag's default replace a field that is set, or lets a field
	// that is set shadow the environment. What is required is missing in the first call, and its error is nothing.
	_ = env.ParseWithOptions(&cfg, env.Options{Environment: map[string]string{}, SetDefaultsForZeroValuesOnly: true})
	err := env.ParseWithOptions(&cfg, env.Options{Environment: env.ToMap(environ), DefaultValueTagName: "none"})
	if err != nil {
		var many env.AggregateError
		if errors.As(err, &many) {
			lines := make([]string, 0, len(many.Errors))
			for _, each := range many.Errors {
				lines = append(lines, explain(&cfg, each))
			}
			slices.Sort(lines)
			return cfg, errors.New(strings.Join(lines, "; "))
		}
		return cfg, err
	}
	if v, ok := any(&cfg).(interface{ Validate() error }); ok {
		if err := v.Validate(); err != nil {
			return cfg, errors.New(strings.ReplaceAll(err.Error(), "\n", "; ")) // of errors.Join: one line like the others
		}
	}
	return cfg, nil
}

// explain names the variable where the library names the struct's field.
func explain(cfg any, err error) string {
	var parse env.ParseError
	if errors.As(err, &parse) {
		for _, s := range list(reflect.ValueOf(cfg).Elem()) {
			if s.field == parse.Name {
				return fmt.Sprintf("%s (%s): %s", s.name, s.kind, parse.Err)
			}
		}
	}
	return strings.TrimPrefix(err.Error(), "env: ")
}

// setting is one variable, as Usage prints it.
type setting struct {
	field, name, kind, initial, desc string
	secret                           bool
	value                            reflect.Value
}

// Usage prints every variable of defaults with its type or unit, its default and what it is for.
func Usage[T any](w io.Writer, name, purpose string, defaults T) {
	fmt.Fprintf(w, "%s: %s\n\nUsage: %s [--help | --version | --check | --healthcheck]\n"+
		"  --check        reads the settings, says whether they are valid, and exits\n"+
		"  --healthcheck  asks the service that runs with these settings whether it is ready, and exits\n\n"+
		"Settings come from the environment:\n", name, purpose, name)
	tw := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	for _, s := range list(reflect.ValueOf(&defaults).Elem()) {
		initial := s.initial
		if initial == "" {
			initial = "-"
		}
		fmt.Fprintf(tw, "  %s\t%s\t%s\t%s\n", s.name, s.kind, initial, s.desc)
	}
	tw.Flush()
}

// Attrs returns the settings for the log line that a service writes at start: secrets as whether they are set.
func Attrs[T any](cfg T) map[string]string {
	out := map[string]string{}
	for _, s := range list(reflect.ValueOf(&cfg).Elem()) {
		if s.secret {
			out[s.name] = fmt.Sprintf("set=%t", !s.value.IsZero())
			continue
		}
		out[s.name] = fmt.Sprint(s.value.Interface())
	}
	return out
}

func list(v reflect.Value) []setting {
	var out []setting
	for i := range v.NumField() {
		field := v.Type().Field(i)
		if field.Anonymous || (field.Type.Kind() == reflect.Struct && field.Tag.Get("env") == "") {
			out = append(out, list(v.Field(i))...)
			continue
		}
		tag, required, _ := strings.Cut(field.Tag.Get("env"), ",")
		if tag == "" {
			continue
		}
		s := setting{
			field: field.Name, name: tag, kind: field.Tag.Get("unit"), initial: field.Tag.Get("envDefault"),
			desc: field.Tag.Get("desc"), secret: field.Tag.Get("secret") == "true", value: v.Field(i),
		}
		if s.kind == "" {
			s.kind = kindOf(field.Type)
		}
		if !v.Field(i).IsZero() && !s.secret {
			s.initial = fmt.Sprint(v.Field(i).Interface())
		}
		if strings.Contains(required, "required") {
			s.initial = "(required)"
		}
		out = append(out, s)
	}
	return out
}

func kindOf(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[time.Duration]():
		return "duration"
	case t.Kind() == reflect.Slice:
		return "comma-separated list"
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() >= reflect.Int && t.Kind() <= reflect.Uint64:
		return "number"
	default:
		return "text"
	}
}
