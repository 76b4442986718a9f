package delivery

import "time"

// How an endpoint with a rate limit is paced. Its pacer hands out slots, evenly spaced by the limit: every request has
// its own, and whoever makes it waits for that, or has to ask for another one.
const (
	// PaceLate is how much later than its slot a request may start. While all do, an endpoint gets at most a tenth of its limit,
	// rounded up, above the limit in any second; the rest of Burst is for what the way to it changes.
	PaceLate = 100 * time.Millisecond
	// PaceAhead is how far ahead slots are booked. What finds none within it is parked.
	PaceAhead = 10 * time.Second
	// PaceWithin is when a delivery that was sent to the pacer is due if nobody hears of it again: by then it has had its
	// slot, or is parked, unless the pacer is behind.
	PaceWithin = PaceAhead + 2*time.Second
	// MaxLead bounds how long before its slot a connection is begun.
	MaxLead = time.Second

	// leastLead is the least time from the booking of a slot to the slot.
	leastLead = 50 * time.Millisecond
	// leadKept is how long a longer lead stays that an endpoint has turned out to need.
	leadKept = 5 * time.Minute
	// pacedEarly is how much earlier than its lead a list arrives that was booked ahead.
	pacedEarly = 150 * time.Millisecond
	// pacedPiece is how many slots a list gets, in time: it is one step, which takes a second at most.
	pacedPiece = 200 * time.Millisecond
)

// Burst is how many more webhooks than its limit an endpoint may get in a second: a quarter, rounded up. With it the limit
// holds as long as no two requests are late by 250 ms more than each other, at the endpoint.
func Burst(limit int) int { return (limit + 3) / 4 }

// Pace is what an endpoint's pacer remembers; the zero value is of an endpoint that got nothing yet. It has one writer.
type Pace struct {
	// NextUS is the next free slot, in Unix time.
	NextUS int64 `json:"next_unix_us"`
	// LeadMS is how long before its slot a request must be begun, as one has shown at LeadAtMS, in Unix time, that was late:
	// it takes so long to connect to the endpoint.
	LeadMS   int64 `json:"lead_ms,omitempty"`
	LeadAtMS int64 `json:"lead_at_unix_ms,omitempty"`
}

// PaceRequest asks for slots for the deliveries of a list.
type PaceRequest struct {
	List AttemptList `json:"list"`
	Rate int         `json:"rate"` // webhooks a second
	// LeadMS is how long the connection of one of them took that was late for its slot.
	LeadMS int64 `json:"lead_ms,omitempty"`
}

// PacedList is a list whose tickets have slots, and in how long it is to be sent.
type PacedList struct {
	List  AttemptList
	Delay time.Duration
}

// Book gives the deliveries of the request the next free slots, in lists, and returns those that find none within PaceAhead
// beside them. No slot is in the past of now.
func (p *Pace) Book(r PaceRequest, now time.Time) ([]PacedList, []Ticket) {
	if lead := r.LeadMS; lead > 0 && lead <= MaxLead.Milliseconds() {
		p.LeadMS, p.LeadAtMS = max(p.LeadMS, lead), now.UnixMilli()
	} else if now.UnixMilli()-p.LeadAtMS > leadKept.Milliseconds() {
		p.LeadMS, p.LeadAtMS = 0, 0
	}
	lead := max(leastLead, time.Duration(p.LeadMS)*time.Millisecond)
	nowUS, horizonUS := now.UnixMicro(), now.Add(PaceAhead).UnixMicro()
	if p.NextUS > horizonUS+PaceAhead.Microseconds() {
		p.NextUS = 0 // no clock that is about right has booked so far ahead
	}
	p.NextUS = max(p.NextUS, nowUS+lead.Microseconds())
	rate := int64(max(1, r.Rate))
	every := (1_000_000 + rate - 1) / rate // rounded up: rather one less
	most := min(MaxTickets, max(1, pacedPiece.Microseconds()/every))
	var lists []PacedList
	left := r.List.Tickets
	for len(left) > 0 && p.NextUS <= horizonUS {
		n := min(most, int64(len(left)), 1+(horizonUS-p.NextUS)/every)
		list := r.List
		list.Tickets, list.SlotUS, list.EveryUS, list.LeadMS = left[:n], p.NextUS, every, lead.Milliseconds()
		early := time.Duration(p.NextUS-nowUS)*time.Microsecond - lead - pacedEarly
		lists = append(lists, PacedList{List: list, Delay: max(0, early)})
		left = left[n:]
		p.NextUS += n * every
	}
	return lists, left
}

// Slot is when the list's i-th request is to start, and how long before it is to be begun; the zero time where the list has
// no slots.
func (l AttemptList) Slot(i int) (time.Time, time.Duration) {
	if l.SlotUS == 0 {
		return time.Time{}, 0
	}
	return time.UnixMicro(l.SlotUS + int64(i)*l.EveryUS), time.Duration(l.LeadMS) * time.Millisecond
}
