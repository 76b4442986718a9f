package httpserver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"

	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/platform/logging"
)

// Problem is a problem document, RFC 9457.
type Problem struct {
	Type   string            `json:"type,omitempty"` // absent means about:blank: the status says it all
	Title  string            `json:"title"`
	Status int               `json:"status"`
	Detail string            `json:"detail,omitempty"`
	Errors map[string]string `json:"errors,omitempty"` // by field
}

// WriteProblem answers with the document; an empty title becomes the status's text.
func WriteProblem(w http.ResponseWriter, p Problem) {
	if p.Title == "" {
		p.Title = http.StatusText(p.Status)
	}
	body, err := json.Marshal(p)
	if err != nil { // strings and a number: cannot happen
		http.Error(w, p.Title, p.Status)
		return
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	w.Write(append(body, '\n'))
}

// WriteError answers with the problem document of err's class. The cause of what the caller cannot mend is
// logged here, once, and not told.
func WriteError(w http.ResponseWriter, r *http.Request, log *slog.Logger, err error) {
	status := statusOf(fault.ClassOf(err))
	p := Problem{Status: status}
	if e, ok := errors.AsType[*fault.Error](err); ok {
		p.Detail, p.Errors = e.Detail, e.Fields
	}
	// A caller that left cancels what was done for it, which is nobody's failure.
	if status >= http.StatusInternalServerError && !errors.Is(err, context.Canceled) {
		log.LogAttrs(r.Context(), slog.LevelError, "request failed",
			slog.String("method", r.Method), slog.String("path", r.URL.Path), slog.Int("status", status), logging.Error(err))
	}
	if status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	WriteProblem(w, p)
}

func statusOf(class fault.Class) int {
	switch class {
	case fault.Malformed:
		return http.StatusBadRequest
	case fault.Invalid:
		return http.StatusUnprocessableEntity
	case fault.NotFound:
		return http.StatusNotFound
	case fault.Conflict:
		return http.StatusConflict
	case fault.TooLarge:
		return http.StatusRequestEntityTooLarge
	case fault.Unsupported:
		return http.StatusUnsupportedMediaType
	case fault.Unavailable:
		return http.StatusServiceUnavailable
	case fault.Internal:
	}
	return http.StatusInternalServerError
}

// WriteJSON answers with v as JSON.
func WriteJSON(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		WriteProblem(w, Problem{Status: http.StatusInternalServerError})
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(append(body, '\n'))
}

// ReadBody reads a request's JSON body of at most limit bytes. Another media type or a larger body is
// refused before it is read.
func ReadBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	if !isJSON(r.Header.Get("Content-Type")) {
		return nil, fault.New(fault.Unsupported, "the body must be application/json, and the Content-Type must say so")
	}
	return ReadBytes(w, r, limit)
}

// ReadBytes reads a request's body of any type of at most limit bytes. One that says it is larger is refused before it is
// read.
func ReadBytes(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	if r.ContentLength > limit {
		return nil, tooLarge(limit)
	}
	// One allocation for most, where the client says the size; who says much has to send it first. ReadFrom wants MinRead
	// bytes to spare, also to meet the end.
	var body bytes.Buffer
	body.Grow(int(min(max(r.ContentLength, 0), maxFirstRead)) + bytes.MinRead)
	_, err := body.ReadFrom(http.MaxBytesReader(w, r.Body, limit))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, tooLarge(limit)
	}
	if err != nil {
		return nil, fault.Wrap(err, fault.Malformed, "the body could not be read")
	}
	return body.Bytes(), nil
}

// maxFirstRead is what is allocated at most before anything came.
const maxFirstRead = 16 << 10

func tooLarge(limit int64) error {
	return fault.New(fault.TooLarge, "the body is larger than %d bytes", limit)
}

func isJSON(contentType string) bool {
	if contentType == "application/json" { // nearly always; parsing allocates
		return true
	}
	media, _, err := mime.ParseMediaType(contentType)
	return err == nil && media == "application/json"
}

// DecodeStrict decodes one JSON value into v and refuses unknown fields and trailing data.
func DecodeStrict(body io.Reader, v any) error {
	dec := json.NewDecoder(body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return fault.New(fault.Malformed, "the body is not the JSON that is expected here: %s", explain(err))
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return fault.New(fault.Malformed, "the body has something after its JSON value")
	}
	return nil
}

func explain(err error) string {
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok && e.Field != "" {
		return fmt.Sprintf("%s cannot be a %s", e.Field, e.Value)
	}
	if errors.Is(err, io.EOF) {
		return "it is empty"
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return "it ends in the middle"
	}
	return err.Error()
}
