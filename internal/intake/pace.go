package intake

import (
	"math"
	"time"
)

// Pace of batch starts. A batch costs Restate the same CPU whatever its size, so sending each event at once fills
// two cores with tiny batches from 500 events/s on; at low rates any wait is only latency. Measured at 100, 500 and
// 1,000 events/s, and linear between.
const (
	leastGap   = 8 * time.Millisecond
	largestGap = 20 * time.Millisecond
	slowRate   = 400.0  // events/s up to which the least gap serves
	fastRate   = 1000.0 // events/s from which the largest does
)

// pace measures the rate at which events arrive and says how far apart batches should start.
type pace struct {
	rate float64 // events/s, decaying over about a second
	at   time.Time
}

func (p *pace) arrived(n int, now time.Time) {
	elapsed := now.Sub(p.at).Seconds()
	p.at = now
	p.rate = p.rate*math.Exp(-elapsed) + float64(n)
}

func (p *pace) gap(now time.Time) time.Duration {
	rate := p.rate * math.Exp(-now.Sub(p.at).Seconds())
	share := (rate - slowRate) / (fastRate - slowRate)
	return leastGap + time.Duration(min(max(share, 0), 1)*float64(largestGap-leastGap))
}
