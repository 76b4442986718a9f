package restate

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"strings"
)

// statusesAtOnce bounds the ids of one query.
const statusesAtOnce = 200

var invocationID = regexp.MustCompile(`^inv_[A-Za-z0-9]+$`)

// Ended returns which of the invocations will never run again by themselves: Restate does not know them, has completed
// them, or has paused them until somebody looks. Asked about none it looks whether Restate answers. Its error means that Restate could not be asked, which says nothing
// about any of them.
func (r *Registrar) Ended(ctx context.Context, invocations []string) (map[string]bool, error) {
	ended := make(map[string]bool, len(invocations))
	if len(invocations) == 0 {
		if err := r.call(ctx, http.MethodPost, "/query", map[string]string{"query": "select id from sys_invocation limit 1"}, nil); err != nil {
			return nil, fmt.Errorf("asking Restate whether it is there: %w", err)
		}
	}
	for len(invocations) > 0 {
		chunk := invocations[:min(len(invocations), statusesAtOnce)]
		invocations = invocations[len(chunk):]
		var quoted []string
		for _, id := range chunk {
			ended[id] = true
			if invocationID.MatchString(id) { // what is not an id, Restate does not know
				quoted = append(quoted, "'"+id+"'")
			}
		}
		if len(quoted) == 0 {
			continue
		}
		var answer struct {
			Rows []struct {
				ID     string `json:"id"`
				Status string `json:"status"`
			} `json:"rows"`
		}
		query := map[string]string{"query": "select id, status from sys_invocation where id in (" + strings.Join(quoted, ", ") + ")"}
		if err := r.call(ctx, http.MethodPost, "/query", query, &answer); err != nil {
			return nil, fmt.Errorf("asking Restate about invocations: %w", err)
		}
		for _, row := range answer.Rows {
			ended[row.ID] = row.Status == "completed" || row.Status == "paused"
		}
	}
	return ended, nil
}
