package stack

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// deleteSubscriptions ends Restate's own consumption of our topic. A subscription must not outlive its
// broker either: Restate takes the offsets of a new one for records that it has seen.
func (s *stack) deleteSubscriptions(ctx context.Context) error {
	admin := s.restate("").AdminURL()
	var listed struct {
		Subscriptions []struct{ ID, Source string }
	}
	if err := callAdmin(ctx, http.MethodGet, admin+"/subscriptions", &listed); err != nil {
		return err
	}
	for _, each := range listed.Subscriptions {
		if !strings.HasSuffix(each.Source, "/"+Topic) {
			continue
		}
		if err := callAdmin(ctx, http.MethodDelete, admin+"/subscriptions/"+each.ID, nil); err != nil {
			return err
		}
	}
	return nil
}

func callAdmin(ctx context.Context, method, url string, answer any) error {
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return fmt.Errorf("asking Restate: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("asking Restate: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("asking Restate: %w", err)
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("asking Restate: %s %s: %s", method, url, resp.Status)
	}
	if answer == nil {
		return nil
	}
	if err := json.Unmarshal(body, answer); err != nil {
		return fmt.Errorf("reading Restate's answer: %w", err)
	}
	return nil
}
