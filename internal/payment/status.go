package payment

import "slices"

// Status is where a payment stands.
type Status string

// The statuses. A payment may be created in any of them: what reaches this API may have begun elsewhere.
const (
	StatusPending    Status = "pending"
	StatusProcessing Status = "processing"
	StatusSucceeded  Status = "succeeded"
	StatusFailed     Status = "failed"
	StatusCanceled   Status = "canceled"
	StatusRefunded   Status = "refunded"
	StatusDisputed   Status = "disputed"
)

// Statuses lists every status, in the order in which a payment may go through them.
func Statuses() []Status {
	return []Status{
		StatusPending, StatusProcessing, StatusSucceeded, StatusFailed, StatusCanceled, StatusRefunded, StatusDisputed,
	}
}

// Known reports whether s is one of Statuses.
func (s Status) Known() bool {
	switch s {
	case StatusPending, StatusProcessing, StatusSucceeded, StatusFailed, StatusCanceled, StatusRefunded, StatusDisputed:
		return true
	}
	return false
}

// Next returns what s may become. It is empty for a final status.
func (s Status) Next() []Status {
	switch s {
	case StatusPending:
		return []Status{StatusProcessing, StatusSucceeded, StatusFailed, StatusCanceled}
	case StatusProcessing:
		return []Status{StatusSucceeded, StatusFailed, StatusCanceled}
	case StatusSucceeded:
		return []Status{StatusRefunded, StatusDisputed}
	case StatusDisputed:
		return []Status{StatusSucceeded, StatusRefunded}
	case StatusFailed, StatusCanceled, StatusRefunded:
	}
	return nil
}

// CanBecome reports whether a payment may move from s to next. Staying the same is not a move.
func (s Status) CanBecome(next Status) bool { return slices.Contains(s.Next(), next) }

// Sources returns the statuses that may become s. It is empty for one that payments only begin in.
func (s Status) Sources() []Status {
	var sources []Status
	for _, from := range Statuses() {
		if from.CanBecome(s) {
			sources = append(sources, from)
		}
	}
	return sources
}
