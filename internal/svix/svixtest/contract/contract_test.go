package contract_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/svix/svixtest/contract"
)

const document = `{
  "openapi": "3.0.2",
  "info": {"title": "things", "version": "1"},
  "servers": [{"url": "https://api.example"}],
  "paths": {"/things/{name}": {"post": {
    "parameters": [{"name": "name", "in": "path", "required": true, "schema": {"type": "string"}}],
    "requestBody": {"required": true, "content": {"application/json": {"schema": {
      "type": "object", "required": ["size"], "properties": {"size": {"type": "integer"}}}}}},
    "responses": {
      "201": {"description": "made", "content": {"application/json": {"schema": {
        "type": "object", "required": ["id"], "properties": {"id": {"type": "string"}}}}}},
      "422": {"description": "wrong", "content": {"application/json": {"schema": {
        "type": "object", "required": ["detail"]}}}}
    }
  }}}
}`

func TestWhatBreaksTheDocumentIsReported(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "openapi.json")
	require.NoError(t, os.WriteFile(file, []byte(document), 0o600))
	read, err := contract.Read(file)
	require.NoError(t, err)
	for name, test := range map[string]struct {
		path, body string
		status     int
		answer     string
		reports    string
	}{
		"all is well":                    {"/things/a", `{"size":1}`, 201, `{"id":"x"}`, ""},
		"an answer lacks a field":        {"/things/a", `{"size":1}`, 201, `{}`, "the answer to POST /things/a"},
		"an answer of the wrong type":    {"/things/a", `{"size":1}`, 201, `{"id":1}`, "the answer to POST /things/a"},
		"a wrong request is taken":       {"/things/a", `{"size":"large"}`, 201, `{"id":"x"}`, "the request POST /things/a was taken"},
		"a wrong request is refused":     {"/things/a", `{"size":"large"}`, 422, `{"detail":"no"}`, ""},
		"a refusal lacks a field":        {"/things/a", `{"size":"large"}`, 422, `{}`, "the answer to POST /things/a"},
		"a status that is not named":     {"/things/a", `{"size":1}`, 500, `anything`, ""},
		"an operation that is not there": {"/others", `{"size":1}`, 201, `{"id":"x"}`, "POST /others"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var reports []string
			var seen []byte
			handler := read.Around(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				seen, _ = io.ReadAll(r.Body)
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(test.status)
				io.WriteString(w, test.answer)
			}), func(err error) { reports = append(reports, err.Error()) })
			request := httptest.NewRequest(http.MethodPost, test.path, strings.NewReader(test.body))
			request.Header.Set("Content-Type", "application/json")
			answer := httptest.NewRecorder()
			handler.ServeHTTP(answer, request)
			require.Equal(t, test.body, string(seen), "the handler sees what came")
			require.Equal(t, test.status, answer.Code)
			require.Equal(t, test.answer, answer.Body.String(), "and the caller what was answered")
			if test.reports == "" {
				require.Empty(t, reports)
				return
			}
			require.Len(t, reports, 1)
			require.Contains(t, reports[0], test.reports)
		})
	}
}

func TestADocumentThatCannotBeReadIsAnError(t *testing.T) {
	t.Parallel()
	_, err := contract.Read(filepath.Join(t.TempDir(), "none.json"))
	require.Error(t, err)
	file := filepath.Join(t.TempDir(), "openapi.json")
	require.NoError(t, os.WriteFile(file, []byte("{"), 0o600))
	_, err = contract.Read(file)
	require.Error(t, err)
}
