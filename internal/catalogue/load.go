package catalogue

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"regexp"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

//go:embed definitions.json types/*.json
var files embed.FS

const (
	draft = "https://json-schema.org/draft/2020-12/schema"
	// definitionsFile is how the files of the types refer to what they share. In a webhook's schema it is
	// at hand, and the file's name goes.
	definitionsFile = "../definitions.json#/"
	dataDefinition  = "data" // under which a webhook's schema has that of its data
)

// list is what the files say.
type list struct {
	types  []Type // sorted by name
	byName map[string]int
}

// known reads and compiles the files at the first call. They are part of the binary, and a test reads each:
// that they cannot be read does not happen.
var known = sync.OnceValue(func() list {
	l, err := load()
	if err != nil {
		panic(err)
	}
	return l
})

func load() (list, error) {
	definitions, err := readDefinitions()
	if err != nil {
		return list{}, err
	}
	entries, err := fs.ReadDir(files, "types") // sorted
	if err != nil {
		return list{}, fmt.Errorf("listing the event types: %w", err)
	}
	l := list{byName: map[string]int{}}
	for _, entry := range entries {
		name := strings.TrimSuffix(entry.Name(), ".json")
		t, err := readType(name, definitions)
		if err != nil {
			return list{}, fmt.Errorf("reading the event type %s: %w", name, err)
		}
		l.byName[name] = len(l.types)
		l.types = append(l.types, t)
	}
	return l, nil
}

func readDefinitions() (map[string]json.RawMessage, error) {
	text, err := files.ReadFile("definitions.json")
	if err != nil {
		return nil, fmt.Errorf("reading the shared definitions: %w", err)
	}
	var read struct {
		Defs map[string]json.RawMessage `json:"$defs"`
	}
	if err := json.Unmarshal(text, &read); err != nil {
		return nil, fmt.Errorf("decoding the shared definitions: %w", err)
	}
	return read.Defs, nil
}

func readType(name string, definitions map[string]json.RawMessage) (Type, error) {
	text, err := files.ReadFile("types/" + name + ".json")
	if err != nil {
		return Type{}, err
	}
	// As a part of another schema it names no draft of its own.
	text = bytes.ReplaceAll(text, []byte(`"$schema": "`+draft+`",`), nil)
	text = bytes.ReplaceAll(text, []byte(definitionsFile), []byte("#/"))
	var file struct {
		Description string            `json:"description"`
		Examples    []json.RawMessage `json:"examples"`
	}
	if err := json.Unmarshal(text, &file); err != nil {
		return Type{}, fmt.Errorf("decoding the file: %w", err)
	}
	if len(file.Examples) != 1 {
		return Type{}, fmt.Errorf("it has %d examples, not one", len(file.Examples))
	}
	t := Type{
		Name: name, Description: file.Description,
		Operational: Operational(name), payment: strings.HasPrefix(name, paymentPrefix),
	}
	if t.example, err = readExample(file.Examples[0]); err != nil {
		return Type{}, err
	}
	if t.schema, err = webhookSchema(t, text, definitions); err != nil {
		return Type{}, err
	}
	if t.data, err = compile(name, t.schema, "#/$defs/"+dataDefinition); err != nil {
		return Type{}, err
	}
	return t, nil
}

func readExample(text json.RawMessage) (exampleData, error) {
	var compact bytes.Buffer
	if err := json.Compact(&compact, text); err != nil {
		return exampleData{}, fmt.Errorf("reading the example: %w", err)
	}
	object := struct {
		Version int64 `json:"version"`
	}{Version: 1} // what is not a payment has no version of its own
	if err := json.Unmarshal(text, &object); err != nil {
		return exampleData{}, fmt.Errorf("reading the example's version: %w", err)
	}
	return exampleData{json: compact.Bytes(), version: object.Version}, nil
}

// schemaDocument is the schema of a webhook. What all webhooks share is the definition "webhook".
type schemaDocument struct {
	Schema      string                     `json:"$schema"`
	Title       string                     `json:"title"`
	Description string                     `json:"description"`
	Ref         string                     `json:"$ref"`
	Required    []string                   `json:"required,omitempty"`
	Properties  map[string]json.RawMessage `json:"properties"`
	Defs        map[string]json.RawMessage `json:"$defs"`
}

// webhookSchema makes the schema of the whole webhook around that of its data.
func webhookSchema(t Type, data []byte, definitions map[string]json.RawMessage) ([]byte, error) {
	schema := schemaDocument{
		Schema: draft, Title: t.Name, Description: t.Description, Ref: "#/$defs/webhook",
		Properties: map[string]json.RawMessage{
			"event_type": fmt.Appendf(nil, `{"const": %q}`, t.Name),
			"snapshot":   json.RawMessage(`{"$ref": "#/$defs/` + dataDefinition + `"}`),
		},
		Defs: map[string]json.RawMessage{dataDefinition: data},
	}
	if t.payment {
		schema.Required = []string{"payment"}
		schema.Properties["payment"] = json.RawMessage(`{"$ref": "#/$defs/payment", "description": "The payment as of this attempt."}`)
	}
	for _, text := range [][]byte{[]byte(`"#/$defs/webhook"`), data} {
		if err := collect(schema.Defs, text, definitions); err != nil {
			return nil, err
		}
	}
	encoded, err := json.MarshalIndent(schema, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding the schema: %w", err)
	}
	return encoded, nil
}

var reference = regexp.MustCompile(`"#/\$defs/([^"]*)"`)

// collect adds to defs what text refers to, and what that refers to.
func collect(defs map[string]json.RawMessage, text []byte, definitions map[string]json.RawMessage) error {
	for _, match := range reference.FindAllSubmatch(text, -1) {
		name := string(match[1])
		definition, ok := definitions[name]
		if !ok {
			return fmt.Errorf("there is no definition %q", name)
		}
		if _, ok := defs[name]; ok {
			continue // and so is what it refers to
		}
		defs[name] = definition
		if err := collect(defs, definition, definitions); err != nil {
			return err
		}
	}
	return nil
}

// compile compiles the part of the type's schema that the fragment names.
func compile(name string, schema []byte, fragment string) (*jsonschema.Schema, error) {
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(schema))
	if err != nil {
		return nil, fmt.Errorf("decoding the schema: %w", err)
	}
	location := "urn:hookline:" + name
	compiler := jsonschema.NewCompiler()
	compiler.UseLoader(jsonschema.SchemeURLLoader{}) // nothing but what is given
	compiler.RegisterFormat(&formatInt64)
	compiler.RegisterFormat(&formatCurrency)
	compiler.AssertFormat()
	if err := compiler.AddResource(location, document); err != nil {
		return nil, fmt.Errorf("adding the schema: %w", err)
	}
	compiled, err := compiler.Compile(location + fragment)
	if err != nil {
		return nil, fmt.Errorf("compiling the schema: %w", err)
	}
	return compiled, nil
}
