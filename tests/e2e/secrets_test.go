package e2e_test

import (
	"bytes"
	crand "crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/endpoint"
	"github.com/hookline/hookline/internal/load"
	"github.com/hookline/hookline/internal/signing"
	"github.com/hookline/hookline/internal/simulator"
	"github.com/hookline/hookline/internal/stack"
)

// written is all that a place holds, and what it stands for where it is hex or base64.
type written map[string][]byte // by place, such as "log webhook-worker.log"

var (
	inHex    = regexp.MustCompile(`[0-9A-Fa-f]{12,}`) // also behind the \x of a bytea
	inBase64 = regexp.MustCompile(`[A-Za-z0-9+/_-]{12,}`)
)

// add keeps a content with what it decodes to, and with what that decodes to: an entry of a journal is printed as hex and
// may be JSON, in which bytes are base64.
func (w written) add(place string, content []byte) {
	layer := content
	for range 3 {
		w[place] = append(append(w[place], layer...), '\n')
		var next []byte
		for _, run := range inHex.FindAll(layer, -1) {
			if plain, err := hex.DecodeString(string(run[:len(run)/2*2])); err == nil {
				next = append(append(next, plain...), '\n')
			}
		}
		for _, run := range inBase64.FindAll(layer, -1) {
			for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
				if plain, err := encoding.DecodeString(string(run)); err == nil {
					next = append(append(next, plain...), '\n')
					break
				}
			}
		}
		layer = next
	}
}

// having names the places that hold the text.
func (w written) having(text string) []string {
	var places []string
	for place, content := range w {
		if bytes.Contains(content, []byte(text)) {
			places = append(places, place)
		}
	}
	slices.Sort(places)
	return places
}

// addLogs takes in what the stack's processes have logged.
func (w written) addLogs(t *testing.T, s *running) {
	t.Helper()
	_, files, err := stack.LogFiles(s.state())
	require.NoError(t, err)
	for name, file := range files {
		content, err := os.ReadFile(file)
		require.NoError(t, err)
		w.add("log "+name, content)
	}
}

// addRestate takes in every table that Restate shows.
func (w written) addRestate(t *testing.T, s *running) {
	t.Helper()
	query := func(sql string) (rows []map[string]json.RawMessage) {
		body, err := json.Marshal(map[string]string{"query": sql})
		require.NoError(t, err)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+s.status.RestateAdmin()+"/query", bytes.NewReader(body))
		require.NoError(t, err)
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Accept", "application/json")
		res, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		defer res.Body.Close()
		require.Equal(t, http.StatusOK, res.StatusCode, sql)
		var answer struct{ Rows []map[string]json.RawMessage }
		require.NoError(t, json.NewDecoder(res.Body).Decode(&answer), sql)
		return answer.Rows
	}
	for _, row := range query("select table_name from information_schema.tables where table_schema = 'public'") {
		var name string
		require.NoError(t, json.Unmarshal(row["table_name"], &name))
		var content []byte
		for _, row := range query("select * from " + name) {
			for _, value := range row {
				content = append(append(content, value...), '\n')
			}
		}
		w.add("restate "+name, content)
	}
}

// addLedger takes in every row of the ledger. PostgreSQL writes bytea as hex.
func (w written) addLedger(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	rows, err := pool.Query(t.Context(), "select table_name::text from information_schema.tables where table_schema = 'delivery'")
	require.NoError(t, err)
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	for _, name := range tables {
		rows, err := pool.Query(t.Context(), "select to_jsonb(t)::text from delivery."+pgx.Identifier{name}.Sanitize()+" t")
		require.NoError(t, err)
		all, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err)
		w.add("ledger "+name, []byte(strings.Join(all, "\n")))
	}
}

// addServices takes in what the services tell anybody who asks.
func (w written) addServices(t *testing.T, s *running) {
	t.Helper()
	for _, name := range []string{stack.DataService, stack.CDCRelay, stack.WebhookWorker, stack.PaymentsAPI, stack.MerchantSimulator} {
		for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.status.Address(name)+path, nil)
			require.NoError(t, err)
			res, err := http.DefaultClient.Do(req)
			require.NoError(t, err)
			content, err := io.ReadAll(res.Body)
			require.NoError(t, err)
			require.NoError(t, res.Body.Close())
			require.Equal(t, http.StatusOK, res.StatusCode, "%s of %s: %s", path, name, content)
			w.add(path+" "+name, content)
		}
	}
}

// talkative is a merchant's server that fails, and prints the request as a framework's error page does.
type talkative struct {
	url string

	mu         sync.Mutex
	signatures []string
}

func newTalkative(t *testing.T) *talkative {
	t.Helper()
	m := &talkative{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.signatures = append(m.signatures, r.Header.Get("Webhook-Signature"))
		user, password, _ := r.BasicAuth()
		w.WriteHeader(http.StatusInternalServerError)
		fmt.Fprintf(w, "this page tells all\n%s %s of %s, %s\nuser %s, password %s, query %q\n", r.Method, r.URL, r.Host, r.RequestURI, user, password, r.URL.Query())
		r.Header.Write(w)
	}))
	t.Cleanup(server.Close)
	m.url = server.URL
	return m
}

// sent are the signatures that it got.
func (m *talkative) sent() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.signatures)
}

func TestTheSearchFindsWhatIsEncoded(t *testing.T) {
	t.Parallel()
	const text = "what-is-looked-for"
	document := base64.StdEncoding.EncodeToString([]byte(`{"x":"` + text + `"}`))
	w := written{}
	w.add("plain", []byte("a "+text+" b"))
	w.add("hex", []byte(`{"raw":"`+hex.EncodeToString([]byte("xy"+text))+`"}`))
	w.add("base64", []byte(`"`+document+`"`))
	w.add("both", []byte(`"`+hex.EncodeToString([]byte(`{"body":"`+document+`"}`))+`"`))
	w.add("bytea", []byte(`{"value": "\\x`+hex.EncodeToString([]byte(text))+`"}`))
	w.add("basic", []byte("Authorization: Basic "+base64.StdEncoding.EncodeToString([]byte("user:"+text))))
	w.add("url", []byte(base64.RawURLEncoding.EncodeToString([]byte("\xff\xfe\xfd"+text))))
	w.add("nothing", []byte("what is looked for"))
	require.Equal(t, []string{"base64", "basic", "both", "bytea", "hex", "plain", "url"}, w.having(text))
}

// Everything that can go wrong with an attempt says so somewhere, and nothing of it may say too much.
func TestNothingSecretIsWrittenDown(t *testing.T) {
	s := start(t, "LOG_LEVEL=debug")
	manager, pool := s.endpointsOf(t)
	merchant := load.NewMerchant(s.status.Address(stack.MerchantSimulator))
	random := func(what string) string { return what + "-" + strings.ToLower(crand.Text()) }

	secret := s.simulatorsSecret(t, manager)
	user, password, query, header, path := random("user"), random("password"), random("query"), random("header"), random("path")
	target := url.URL{
		Scheme: "http", User: url.UserPassword(user, password), Host: s.status.Address(stack.MerchantSimulator), Path: "/webhooks/" + path,
		RawQuery: "token=" + query,
	}
	spec := endpoint.Spec{
		MerchantID: "discreet", URL: target.String(), Headers: map[string]string{"X-Api-Key": header}, Secret: secret, Timeout: time.Second,
		Schedule: delivery.Schedule{100 * time.Millisecond, 100 * time.Millisecond, 100 * time.Millisecond, 100 * time.Millisecond},
	}
	added, _, err := manager.Add(t.Context(), spec)
	require.NoError(t, err)
	// Nobody listens at the other one.
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	closed := target
	closed.Host = listener.Addr().String()
	require.NoError(t, listener.Close())
	spec.URL, spec.Schedule = closed.String(), delivery.Schedule{100 * time.Millisecond}
	refusing, _, err := manager.Add(t.Context(), spec)
	require.NoError(t, err)
	page := newTalkative(t)
	there, err := url.Parse(page.url)
	require.NoError(t, err)
	told := target
	told.Host, told.Path = there.Host, "/told"
	spec.URL = told.String()
	telling, _, err := manager.Add(t.Context(), spec)
	require.NoError(t, err)

	var bodies, events []string
	secrets := []string{secret}
	for i, failing := range []simulator.Behaviour{
		{Status: http.StatusServiceUnavailable, FailFirst: 1, Answer: "the merchant's own words"},
		{Drop: true, FailFirst: 1},
		{Hang: true, FailFirst: 1},
		{Status: http.StatusFound, FailFirst: 1},
	} {
		failing.Merchant = path
		require.NoError(t, merchant.Behave(t.Context(), failing))
		body := random("body")
		bodies = append(bodies, body)
		var payment struct{ ID string }
		call(t, t.Context(), http.MethodPost, s.status.Address(stack.PaymentsAPI), "/payments",
			fmt.Sprintf(`{"merchant_id":"discreet","amount":1000,"currency":"USD","metadata":{"note":%q}}`, body), &payment)
		var event uuid.UUID
		require.EventuallyWithT(t, func(c *assert.CollectT) {
			err := pool.QueryRow(t.Context(), `select p.event_id from delivery.plans p
				join delivery.deliveries ok on ok.event_id = p.event_id and ok.endpoint_id = $2 and ok.state = 'succeeded' and ok.attempts > 1
				join delivery.deliveries dead on dead.event_id = p.event_id and dead.endpoint_id = $3 and dead.state = 'dead'
				join delivery.deliveries told on told.event_id = p.event_id and told.endpoint_id = $4 and told.state = 'dead'
				where p.object_id = $1`, payment.ID, [16]byte(added.ID), [16]byte(refusing.ID), [16]byte(telling.ID)).Scan((*[16]byte)(&event))
			require.NoError(c, err)
		}, time.Minute, 50*time.Millisecond)
		events = append(events, event.String())
		if i == 0 { // from here on two secrets sign
			rotated, err := manager.RotateSecret(t.Context(), added.ID, "", signing.HMAC, time.Hour)
			require.NoError(t, err)
			secrets = append(secrets, rotated)
		}
	}
	var causes string
	require.NoError(t, pool.QueryRow(t.Context(), `select string_agg(distinct cause, ' ' order by cause) from delivery.attempts
		where endpoint_id = any($1)`, [][16]byte{added.ID, refusing.ID}).Scan(&causes))
	require.Equal(t, "ok redirect refused reset server_error timeout_answer", causes)
	all := written{}
	all.addServices(t, s)
	_, stderr, err := hookline(t, s.dir, nil, "down") // what a process says at its end counts, too; the ledger and Restate come up again
	require.NoError(t, err, stderr)
	s.up(t)

	all.addServices(t, s)
	all.addLogs(t, s)
	all.addRestate(t, s)
	all.addLedger(t, pool)
	for _, event := range events {
		found := all.having(event)
		for _, place := range []string{"ledger attempts", "ledger deliveries", "ledger plans", "log " + stack.MerchantSimulator, "restate sys_journal"} {
			require.Contains(t, found, place, "the search finds nothing that is there")
		}
	}
	require.Contains(t, all.having("the merchant's own words"), "ledger attempts", "the search finds no bytes")
	require.Contains(t, all.having("this page tells all"), "ledger attempts")
	for _, name := range []string{stack.DataService, stack.CDCRelay, stack.WebhookWorker, stack.PaymentsAPI, stack.MerchantSimulator} {
		require.Contains(t, all.having("go_goroutines"), "/metrics "+name)
	}
	require.Contains(t, all.having("/WebhookDispatcher/Process"), "restate sys_journal", "the search finds nothing in an entry")

	hidden := map[string]string{
		"user": user, "password": password, "query": query, "header": header,
	}
	for i, secret := range secrets {
		_, encoded, _ := strings.Cut(secret, "_")
		key, err := base64.StdEncoding.DecodeString(encoded)
		require.NoError(t, err)
		hidden[fmt.Sprintf("secret %d", i)], hidden[fmt.Sprintf("key %d", i)] = encoded, string(key)
	}
	require.NotEmpty(t, page.sent())
	for i, sent := range page.sent() {
		for j, signature := range strings.Fields(sent) {
			hidden[fmt.Sprintf("signature %d of attempt %d", j, i)] = strings.TrimPrefix(signature, "v1,")
		}
	}
	for i, body := range bodies {
		hidden[fmt.Sprintf("body %d", i)] = body
	}
	for what, text := range hidden {
		require.Empty(t, all.having(text), what)
	}
	// Where webhooks go is in the ledger, and nowhere else.
	for _, text := range []string{"/webhooks/" + path, target.Host + "/webhooks", closed.Host} {
		require.Equal(t, []string{"ledger endpoints"}, all.having(text), text)
	}
}

// simulatorsSecret is what the stack's simulator verifies by.
func (s *running) simulatorsSecret(t *testing.T, manager *endpoint.Manager) string {
	t.Helper()
	listed, err := manager.List(t.Context(), stack.DemoMerchant)
	require.NoError(t, err)
	require.Len(t, listed, 1)
	recipient, err := manager.Recipient(t.Context(), listed[0].ID)
	require.NoError(t, err)
	require.Len(t, recipient.Secrets, 1)
	return recipient.Secrets[0].Value
}
