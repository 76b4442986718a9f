// Package contract holds what is said to a Svix server, and what it answers, against the server's own OpenAPI document
// (server/openapi.json of https://github.com/svix/svix-webhooks; a running server has it at /api/v1/openapi.json).
package contract

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"
)

// Document is the server's OpenAPI document. It is safe for concurrent use.
type Document struct{ router routers.Router }

// Read reads the document from a file.
func Read(file string) (*Document, error) {
	doc, err := openapi3.NewLoader().LoadFromFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading the OpenAPI document: %w", err)
	}
	doc.Servers = nil // it is Svix Cloud's
	router, err := gorillamux.NewRouter(doc)
	if err != nil {
		return nil, fmt.Errorf("reading the paths of the OpenAPI document: %w", err)
	}
	return &Document{router}, nil
}

// Around puts itself around a handler: it tells report of each request that is taken and should not be, and of each answer
// that the document does not allow. Answers with a status that the document does not know, such as 413 and 500, are passed
// over. report may be called by several goroutines.
func (d *Document) Around(next http.Handler, report func(error)) http.Handler {
	return &checker{next: next, router: d.router, report: report}
}

type checker struct {
	next   http.Handler
	router routers.Router
	report func(error)
}

// ServeHTTP implements http.Handler.
func (c *checker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	route, params, err := c.router.FindRoute(r)
	if err != nil {
		c.report(fmt.Errorf("%s %s: %w", r.Method, r.URL.Path, err))
		c.next.ServeHTTP(w, r)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the caller is gone
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	input := &openapi3filter.RequestValidationInput{
		Request: r, PathParams: params, Route: route,
		Options: &openapi3filter.Options{AuthenticationFunc: openapi3filter.NoopAuthenticationFunc},
	}
	invalid := openapi3filter.ValidateRequest(r.Context(), input)
	r.Body = io.NopCloser(bytes.NewReader(body))
	answer := httptest.NewRecorder()
	c.next.ServeHTTP(answer, r)
	if answer.Code < 300 && invalid != nil {
		c.report(fmt.Errorf("the request %s %s was taken: %w", r.Method, r.URL.Path, invalid))
	}
	if err := openapi3filter.ValidateResponse(r.Context(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: input, Status: answer.Code, Header: answer.Header(),
		Body: io.NopCloser(bytes.NewReader(answer.Body.Bytes())), Options: input.Options,
	}); err != nil {
		c.report(fmt.Errorf("the answer to %s %s: %w", r.Method, r.URL.Path, err))
	}
	maps.Copy(w.Header(), answer.Header())
	w.WriteHeader(answer.Code)
	w.Write(answer.Body.Bytes())
}
