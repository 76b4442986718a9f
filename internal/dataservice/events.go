package dataservice

import (
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/platform/httpserver"
)

const (
	defaultLimit = 500
	maxLimit     = 1000
)

func (s *Service) events(w http.ResponseWriter, r *http.Request) {
	asked, err := readFeedRequest(r)
	if err != nil {
		httpserver.WriteError(w, r, s.log, err)
		return
	}
	if !asked.since.IsZero() {
		if asked.after, err = s.store.FeedStart(r.Context(), asked.since); err != nil {
			httpserver.WriteError(w, r, s.log, err)
			return
		}
	}
	page, err := s.store.Feed(r.Context(), asked.after, asked.limit, asked.visible)
	if err != nil {
		httpserver.WriteError(w, r, s.log, err)
		return
	}
	httpserver.WriteJSON(w, http.StatusOK, page)
}

type feedRequest struct {
	after   string    // empty is the start
	since   time.Time // instead of after; zero where it is not given
	limit   int
	visible bool
}

func readFeedRequest(r *http.Request) (feedRequest, error) {
	asked, wrong := feedRequest{limit: defaultLimit}, map[string]string{}
	for name, values := range r.URL.Query() {
		var err error
		switch value := values[0]; name {
		case "after":
			asked.after = value
		case "since":
			asked.since, err = time.Parse(time.RFC3339, value)
			if err != nil || r.URL.Query().Has("after") {
				wrong[name] = "must be a time such as 2026-02-23T12:00:00Z, and does not go with after"
			}
		case "limit":
			asked.limit, err = strconv.Atoi(value)
			if err != nil || asked.limit < 1 || asked.limit > maxLimit {
				wrong[name] = fmt.Sprintf("must be a number from 1 to %d", maxLimit)
			}
		case "visible":
			asked.visible, err = strconv.ParseBool(value)
			if err != nil {
				wrong[name] = "must be true or false"
			}
		default:
			wrong[name] = "is not a parameter of the feed"
		}
		if len(values) > 1 {
			wrong[name] = "is given more than once"
		}
	}
	return asked, fault.InvalidFields(wrong)
}
