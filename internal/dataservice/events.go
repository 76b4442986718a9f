package dataservice

import (
	"fmt"
	"net/http"
	"strconv"

	"github.com/hookline/hookline/internal/event"
	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/platform/httpserver"
)

const (
	defaultLimit = 500
	maxLimit     = 1000
)

// feedPage is the answer of the feed. Last is the cursor of the page's last event: with ?visible=true it walks
// above Xmin, where Next stays behind because an event below it can still appear.
type feedPage struct {
	event.FeedPage
	Last string `json:"last"`
}

func (s *Service) events(w http.ResponseWriter, r *http.Request) {
	asked, err := readFeedRequest(r)
	if err != nil {
		httpserver.WriteError(w, r, s.log, err)
		return
	}
	page, last, err := s.store.Feed(r.Context(), asked.after, asked.limit, asked.visible)
	if err != nil {
		httpserver.WriteError(w, r, s.log, err)
		return
	}
	httpserver.WriteJSON(w, http.StatusOK, feedPage{FeedPage: page, Last: last})
}

type feedRequest struct {
	after   string // empty is the start
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
