package endpoint

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/seal"
	"github.com/hookline/hookline/internal/signing"
)

// Rotation of a signing secret.
const (
	// DefaultOverlap is how long both secrets sign: Stripe's is up to 24 h, and Standard Webhooks leaves it open.
	DefaultOverlap = 24 * time.Hour
	maxOverlap     = 7 * 24 * time.Hour
	// maxLive bounds the header webhook-signature.
	maxLive = 5
)

// store keeps endpoints. A fault.NotFound says that there is no such endpoint.
type store interface {
	Insert(ctx context.Context, row Row) error
	Row(ctx context.Context, id uuid.UUID) (Row, error)
	Rows(ctx context.Context, merchantID string) ([]Row, error)
	// Replace writes all of the row but its secrets and whether it is enabled, where the revision is still the row's;
	// a fault.Conflict says that it is not.
	Replace(ctx context.Context, row Row) error
	// Rotate adds a secret. Those before it expire after the overlap, or earlier where they would have.
	Rotate(ctx context.Context, id uuid.UUID, secret SealedSecret, overlap time.Duration) error
	// Reseal replaces the text of an endpoint's secret where it is still the one before.
	Reseal(ctx context.Context, id uuid.UUID, before, after SealedSecret) error
	// DropExpired removes the secrets of all endpoints that have expired.
	DropExpired(ctx context.Context) error
	Disable(ctx context.Context, id uuid.UUID) error
	// Enable ends the parked deliveries first where drop is set, and returns how many are, or were, parked.
	Enable(ctx context.Context, id uuid.UUID, drop bool) (int64, error)
	// Remove ends the parked deliveries, and returns how many they were.
	Remove(ctx context.Context, id uuid.UUID) (int64, error)
	Standing(ctx context.Context, id uuid.UUID) ([]Standing, error)
}

// Manager manages endpoints. It is safe for concurrent use.
type Manager struct {
	store store
	keys  seal.Keyring
	rules Rules
}

// NewManager makes a Manager that seals with the keys.
func NewManager(s store, keys seal.Keyring, rules Rules) *Manager {
	return &Manager{store: s, keys: keys, rules: rules}
}

func (s Spec) withDefaults() Spec {
	if s.Ordering == "" {
		s.Ordering = Parallel
	}
	if s.Timeout == 0 {
		s.Timeout = DefaultTimeout
	}
	if s.SecretKind == "" {
		s.SecretKind = signing.HMAC
	}
	return s
}

// Add makes an endpoint and returns it with what the merchant verifies with, which is shown nowhere else. What is wrong
// with the spec is a fault.Invalid that names each field.
func (m *Manager) Add(ctx context.Context, spec Spec) (Endpoint, string, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return Endpoint{}, "", fmt.Errorf("drawing an endpoint's id: %w", err)
	}
	return m.insert(ctx, id, spec.withDefaults())
}

// Put makes the endpoint of the id what the spec says, with its secret as the only one; it adds it where there is none. It
// writes nothing where nothing changes.
func (m *Manager) Put(ctx context.Context, id uuid.UUID, spec Spec) error {
	spec = spec.withDefaults()
	row, err := m.store.Row(ctx, id)
	if fault.ClassOf(err) == fault.NotFound {
		_, _, err := m.insert(ctx, id, spec)
		return err
	}
	if err != nil {
		return err
	}
	if err := m.rules.check(ctx, spec); err != nil {
		return err
	}
	same, err := m.same(row, spec)
	if err != nil || same {
		return err
	}
	if err := m.replace(ctx, row, spec); err != nil {
		return err
	}
	_, err = m.rotate(ctx, row, spec.Secret, 0)
	return err
}

// same reports whether the row is what the spec says.
func (m *Manager) same(row Row, spec Spec) (bool, error) {
	before, err := m.spec(row)
	if errors.Is(err, seal.ErrUnknownKey) {
		return false, nil // it is about to be sealed anew
	}
	if err != nil {
		return false, err
	}
	if len(row.Sealed) != 1 || row.keyIDs()[""] {
		return false, nil
	}
	secret, err := Sealer{m.keys, row.ID}.OpenSecret(row.Sealed[0].Sealed)
	if err != nil {
		return false, nil //nolint:nilerr // likewise
	}
	return before.MerchantID == spec.MerchantID && before.URL == spec.URL && before.Description == spec.Description &&
		slices.Equal(before.EventTypes, spec.EventTypes) && maps.Equal(before.Headers, spec.Headers) &&
		slices.Equal(before.Schedule, spec.Schedule) && before.Ordering == spec.Ordering && before.Timeout == spec.Timeout &&
		before.RateLimit == spec.RateLimit && secret == spec.Secret, nil
}

func (m *Manager) insert(ctx context.Context, id uuid.UUID, spec Spec) (Endpoint, string, error) {
	if err := m.rules.check(ctx, spec); err != nil {
		return Endpoint{}, "", err
	}
	row := Row{Endpoint: Endpoint{ID: id, MerchantID: spec.MerchantID}}
	if err := m.fill(&row, spec); err != nil {
		return Endpoint{}, "", err
	}
	secret, err := m.secret(spec.Secret, spec.SecretKind)
	if err != nil {
		return Endpoint{}, "", err
	}
	sealed, err := m.sealed(id, secret)
	if err != nil {
		return Endpoint{}, "", err
	}
	row.Sealed = []SealedSecret{sealed}
	if err := m.store.Insert(ctx, row); err != nil {
		return Endpoint{}, "", err
	}
	stored, err := m.Get(ctx, id)
	return stored, verifier(secret), err
}

// fill makes the row what the spec says.
func (m *Manager) fill(row *Row, spec Spec) error {
	sealer := Sealer{m.keys, row.ID}
	var err error
	if row.URL, row.URLSealed, err = sealer.SealURL(spec.URL); err != nil {
		return err
	}
	if row.HeadersSealed, err = sealer.SealHeaders(spec.Headers); err != nil {
		return err
	}
	row.MerchantID, row.Description, row.EventTypes, row.HeaderNames = spec.MerchantID, spec.Description, spec.EventTypes, slices.Sorted(maps.Keys(spec.Headers))
	row.Schedule, row.Ordering, row.TimeoutMS, row.RateLimit = spec.Schedule, spec.Ordering, spec.Timeout.Milliseconds(), spec.RateLimit
	return nil
}

// spec is the row as somebody would have wanted it, without its secrets.
func (m *Manager) spec(row Row) (Spec, error) {
	sealer := Sealer{m.keys, row.ID}
	whole, err := sealer.OpenURL(row.URL, row.URLSealed)
	if err != nil {
		return Spec{}, err
	}
	headers, err := sealer.OpenHeaders(row.HeadersSealed)
	if err != nil {
		return Spec{}, err
	}
	return Spec{
		MerchantID: row.MerchantID, URL: whole, Description: row.Description, EventTypes: row.EventTypes, Headers: headers,
		Schedule: row.Schedule, Ordering: row.Ordering, Timeout: time.Duration(row.TimeoutMS) * time.Millisecond,
		RateLimit: row.RateLimit,
	}.withDefaults(), nil
}

func (m *Manager) replace(ctx context.Context, row Row, spec Spec) error {
	if err := m.fill(&row, spec); err != nil {
		return err
	}
	return m.store.Replace(ctx, row)
}

// secret is the one that was given, or a new one.
func (m *Manager) secret(given string, kind signing.Kind) (string, error) {
	if given != "" {
		return given, nil
	}
	return signing.NewSecret(kind)
}

func (m *Manager) sealed(id uuid.UUID, secret string) (SealedSecret, error) {
	secretID, err := uuid.NewV7()
	if err != nil {
		return SealedSecret{}, fmt.Errorf("drawing a secret's id: %w", err)
	}
	sealed, err := Sealer{m.keys, id}.SealSecret(secret)
	return SealedSecret{ID: secretID, Sealed: sealed}, err
}

// verifier is what the merchant is told of a secret that has been parsed before.
func verifier(secret string) string {
	parsed, err := signing.ParseSecret(secret)
	if err != nil {
		return ""
	}
	return parsed.Verifier()
}

// Get returns an endpoint; a fault.NotFound where there is none.
func (m *Manager) Get(ctx context.Context, id uuid.UUID) (Endpoint, error) {
	row, err := m.store.Row(ctx, id)
	return m.shown(row), err
}

// shown is the row as it is shown.
func (m *Manager) shown(row Row) Endpoint {
	for i := range row.Secrets {
		row.Secrets[i].Kind = m.kind(row, i)
	}
	if row.urlInClear() {
		row.URL, row.HasCredentials = withoutCredentials(row.URL)
	}
	return row.Endpoint
}

// kind is that of the row's i-th secret; empty where it cannot be opened here.
func (m *Manager) kind(row Row, i int) signing.Kind {
	opened, err := Sealer{m.keys, row.ID}.OpenSecret(row.Sealed[i].Sealed)
	if err != nil {
		return ""
	}
	secret, err := signing.ParseSecret(opened)
	if err != nil {
		return ""
	}
	return secret.Kind()
}

// Standing returns how the deliveries of an endpoint stand that have not succeeded.
func (m *Manager) Standing(ctx context.Context, id uuid.UUID) ([]Standing, error) {
	return m.store.Standing(ctx, id)
}

// List returns every endpoint, or those of one merchant, in the order of their making.
func (m *Manager) List(ctx context.Context, merchantID string) ([]Endpoint, error) {
	rows, err := m.store.Rows(ctx, merchantID)
	out := make([]Endpoint, len(rows))
	for i, row := range rows {
		out[i] = m.shown(row)
	}
	return out, err
}

// Update changes an endpoint. Attempts that start from now on go by it; what is planned stays planned.
func (m *Manager) Update(ctx context.Context, id uuid.UUID, change Change) (Endpoint, error) {
	row, err := m.store.Row(ctx, id)
	if err != nil {
		return Endpoint{}, err
	}
	spec, err := m.spec(row)
	if err != nil {
		return Endpoint{}, err
	}
	checked := spec
	set(&checked.URL, change.URL)
	set(&checked.Description, change.Description)
	set(&checked.Headers, change.Headers)
	set(&checked.Schedule, change.Schedule)
	set(&checked.Ordering, change.Ordering)
	set(&checked.Timeout, change.Timeout)
	set(&checked.RateLimit, change.RateLimit)
	set(&checked.EventTypes, change.EventTypes)
	// A filter that is not changed was right when it was made.
	checked.UnknownTypes = change.UnknownTypes || change.EventTypes == nil
	checked.Wrong = change.Wrong
	rules := m.rules
	rules.anyMerchant = true // likewise
	if change.URL == nil {   // likewise; and where it leads is looked at with every attempt
		rules.URL = func(context.Context, string) error { return nil }
	}
	if err := rules.check(ctx, checked); err != nil {
		return Endpoint{}, err
	}
	if err := m.replace(ctx, row, checked); err != nil {
		return Endpoint{}, err
	}
	return m.Get(ctx, id)
}

func set[T any](field, to *T) {
	if to != nil {
		*field = *to
	}
}

// Disable stops deliveries: those that are due, and those that are planned from now on, are parked.
func (m *Manager) Disable(ctx context.Context, id uuid.UUID) error { return m.store.Disable(ctx, id) }

// Enable lets deliveries begin again. What was parked is sent, the oldest first, or with drop ended as dead; Enable returns
// how much that is.
func (m *Manager) Enable(ctx context.Context, id uuid.UUID, drop bool) (int64, error) {
	return m.store.Enable(ctx, id, drop)
}

// Remove removes an endpoint with its secrets. Its open deliveries end as dead, those that are parked at once; Remove
// returns how many these are.
func (m *Manager) Remove(ctx context.Context, id uuid.UUID) (int64, error) {
	return m.store.Remove(ctx, id)
}

// RotateSecret gives the endpoint a new secret and returns what the merchant verifies with. The secrets before it sign
// beside it for the overlap. An empty one is drawn, of the kind; an empty kind is the newest secret's. What is wrong is a
// fault.Invalid that names each field.
func (m *Manager) RotateSecret(ctx context.Context, id uuid.UUID, secret string, kind signing.Kind, overlap time.Duration) (string, error) {
	problems := map[string]string{}
	if overlap < 0 || overlap > maxOverlap {
		problems["overlap"] = fmt.Sprintf("want 0 to %s", maxOverlap)
	}
	if problem := checkKind(kind); kind != "" && problem != "" {
		problems["secret_kind"] = problem
	}
	if secret != "" {
		if _, err := signing.ParseSecret(secret); err != nil {
			problems["secret"] = err.Error()
		}
	}
	if err := fault.InvalidFields(problems); err != nil {
		return "", err
	}
	row, err := m.store.Row(ctx, id)
	if err != nil {
		return "", err
	}
	if len(row.Sealed) >= maxLive && overlap > 0 {
		return "", fault.New(fault.Conflict, "%d secrets are live already: wait for one to expire, or rotate without an overlap", maxLive)
	}
	if kind == "" && len(row.Sealed) > 0 {
		kind = m.kind(row, 0)
	}
	secret, err = m.secret(secret, cmp.Or(kind, signing.HMAC))
	if err != nil {
		return "", err
	}
	return m.rotate(ctx, row, secret, overlap)
}

func (m *Manager) rotate(ctx context.Context, row Row, secret string, overlap time.Duration) (string, error) {
	sealed, err := m.sealed(row.ID, secret)
	if err != nil {
		return "", err
	}
	return verifier(secret), m.store.Rotate(ctx, row.ID, sealed, overlap)
}

// Recipient returns the endpoint as an attempt needs it.
func (m *Manager) Recipient(ctx context.Context, id uuid.UUID) (delivery.Endpoint, error) {
	row, err := m.store.Row(ctx, id)
	if err != nil {
		return delivery.Endpoint{}, err
	}
	spec, err := m.spec(row)
	if err != nil {
		return delivery.Endpoint{}, err
	}
	out := delivery.Endpoint{
		ID: id, MerchantID: row.MerchantID, URL: spec.URL, Enabled: row.Enabled, Timeout: spec.Timeout, Schedule: spec.Schedule,
		Revision: row.Revision, Headers: spec.Headers,
	}
	for _, each := range row.Sealed {
		value, err := Sealer{m.keys, id}.OpenSecret(each.Sealed)
		if err != nil {
			return delivery.Endpoint{}, err
		}
		out.Secrets = append(out.Secrets, delivery.Secret{Value: value})
	}
	return out, nil
}

// Reseal seals everything with the first key that is not yet, and returns how many endpoints that changed. When it has
// returned, the other keys open nothing any more that was there when it began; KeysInUse says whether somebody sealed with
// one of them meanwhile. It goes on past an endpoint that it cannot open, and fails with a *ResealError at the end. It may
// be repeated, and cut short.
func (m *Manager) Reseal(ctx context.Context, progress func(done, of int)) (int, error) {
	if err := m.store.DropExpired(ctx); err != nil { // they are not worth sealing, and a key that is given up opens them
		return 0, err
	}
	rows, err := m.store.Rows(ctx, "")
	if err != nil {
		return 0, err
	}
	changed := 0
	var failed []*OpenError
	for i, row := range rows {
		did, err := m.resealAnyway(ctx, row)
		if locked, ok := errors.AsType[*OpenError](err); ok {
			failed, err = append(failed, locked), nil
		}
		if err != nil && fault.ClassOf(err) != fault.NotFound {
			return changed, err
		}
		if did {
			changed++
		}
		progress(i+1, len(rows))
	}
	if len(failed) > 0 {
		return changed, &ResealError{Failed: failed}
	}
	return changed, nil
}

// ResealError says which endpoints Reseal could not open. All the others are sealed with the first key.
type ResealError struct {
	Failed []*OpenError // one of each endpoint
}

// Error implements error.
func (e *ResealError) Error() string {
	return fmt.Sprintf("%d endpoints could not be opened, and are sealed as they were; keep every key until they can", len(e.Failed))
}

// Unwrap returns what failed.
func (e *ResealError) Unwrap() []error {
	out := make([]error, len(e.Failed))
	for i, failed := range e.Failed {
		out[i] = failed
	}
	return out
}

// resealAnyway tries again where somebody changed the endpoint meanwhile, or a lock of somebody else's was in the way.
func (m *Manager) resealAnyway(ctx context.Context, row Row) (bool, error) {
	id := row.ID
	did, err := m.reseal(ctx, row)
	for range 3 {
		if class := fault.ClassOf(err); class != fault.Conflict && class != fault.Unavailable {
			break
		}
		if row, err = m.store.Row(ctx, id); err == nil {
			var again bool
			again, err = m.reseal(ctx, row)
			did = did || again
		}
	}
	return did, err
}

func (m *Manager) reseal(ctx context.Context, row Row) (bool, error) {
	first, err := m.firstKey()
	if err != nil {
		return false, err
	}
	did := false
	for _, each := range row.Sealed {
		if seal.KeyID(each.Sealed) == first {
			continue
		}
		secret, err := Sealer{m.keys, row.ID}.OpenSecret(each.Sealed)
		if err != nil {
			return did, err
		}
		after, err := Sealer{m.keys, row.ID}.SealSecret(secret)
		if err != nil {
			return did, err
		}
		if err := m.store.Reseal(ctx, row.ID, each, SealedSecret{ID: each.ID, Sealed: after}); err != nil {
			return did, err
		}
		did = true
	}
	old := func(sealed *string) bool { return sealed != nil && seal.KeyID(*sealed) != first }
	if !old(row.URLSealed) && !old(row.HeadersSealed) && !row.urlInClear() {
		return did, nil
	}
	if did { // its secrets raised the revision
		if row, err = m.store.Row(ctx, row.ID); err != nil {
			return did, err
		}
	}
	spec, err := m.spec(row)
	if err != nil {
		return did, err
	}
	if err := m.replace(ctx, row, spec); err != nil {
		return did, err
	}
	return true, nil
}

func (m *Manager) firstKey() (string, error) {
	ids := m.keys.IDs()
	if len(ids) == 0 {
		return "", errors.New("there is no key to seal with")
	}
	return ids[0], nil
}

// KeysInUse counts the endpoints that something of is sealed with each key, by its id. The empty id stands for what is not
// sealed yet.
func (m *Manager) KeysInUse(ctx context.Context) (map[string]int, error) {
	rows, err := m.store.Rows(ctx, "")
	if err != nil {
		return nil, err
	}
	counts := map[string]int{}
	for _, row := range rows {
		for id := range row.keyIDs() {
			counts[id]++
		}
	}
	return counts, nil
}
