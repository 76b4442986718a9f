package intake

import "time"

// How a backlog behaves while quiet merchants have traffic.
const (
	// besideFor is how long after its last event there is quiet traffic.
	besideFor = time.Second
	// besideGap keeps batches of a backlog apart that are not full: nobody waits for them, and small ones take the CPU that
	// others need.
	besideGap = 50 * time.Millisecond
	// courteous is how many times as long as alone a quiet batch may take beside busy ones.
	courteous = 2
	// fewBatches may be under way with one that counts as alone.
	fewBatches = 4
	// usualBatch is what a small batch takes as long as nothing was measured.
	usualBatch = 10 * time.Millisecond
)

// courtesy finds out how many busy batches may be under way beside quiet traffic without holding it up. A count that is
// right for one machine is wrong for the next, and for merchants that take their time to answer, who cost no CPU meanwhile.
// So it is what the quiet batches allow, as in TCP: each that takes about as long as when alone is worth a part of one more,
// and one that takes longer halves it. A backlog begins with one.
type courtesy struct {
	most  float64
	alone time.Duration // what a quiet batch takes with little else under way; the mean of about the last eight
}

func newCourtesy() courtesy { return courtesy{most: 1, alone: usualBatch} }

// limit is how many busy batches may be under way.
func (c *courtesy) limit() int { return int(c.most) }

// ended learns from a quiet batch; alone says that little else was under way when it started, and no busy one.
func (c *courtesy) ended(took time.Duration, alone bool) {
	switch {
	case alone:
		c.alone += (took - c.alone) / 8
		c.most = 1
	case took > courteous*c.alone:
		c.most = max(1, c.most/2)
	default:
		c.most = min(MaxInFlight, c.most+1/c.most)
	}
}
