package svix

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	sdk "github.com/svix/svix-webhooks/go"
	"github.com/svix/svix-webhooks/go/models"

	"github.com/hookline/hookline/internal/svix/messageid"
)

// Target is an endpoint as it is to be at Svix.
type Target struct {
	UID    string // ours: Svix keeps it unique within the application
	URL    string
	Secret string // whsec_ and base64
}

// Provision makes an application and its endpoint at Svix, and leaves what is there as it is wanted. Whoever uses Svix in
// earnest does this by Svix's own API or pages: who delivers needs no endpoint made.
func (c *Client) Provision(ctx context.Context, uid string, target Target) error {
	if err := Fit(uid); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	var err error
	for range applicationTries { // Svix looks, and then inserts, without a lock
		if _, err = c.api.Application.GetOrCreate(ctx, models.ApplicationIn{Name: uid, Uid: &uid}, nil); statusOf(err) != http.StatusConflict {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("making an application at Svix: %w", err)
	}
	current, err := c.api.Endpoint.Get(ctx, uid, target.UID)
	if err == nil {
		var secret *models.EndpointSecretOut
		if secret, err = c.api.Endpoint.GetSecret(ctx, uid, target.UID); err == nil && secret.Key == target.Secret && current.Url == target.URL {
			return nil
		}
		if err == nil { // Svix changes no secret: it would rotate it
			err = c.api.Endpoint.Delete(ctx, uid, target.UID)
		}
	}
	if err != nil && statusOf(err) != http.StatusNotFound {
		return fmt.Errorf("looking at an endpoint at Svix: %w", err)
	}
	_, err = c.api.Endpoint.Create(ctx, uid, models.EndpointIn{Url: target.URL, Uid: &target.UID, Secret: &target.Secret}, nil)
	if err != nil && statusOf(err) != http.StatusConflict { // another one was as quick
		return fmt.Errorf("making an endpoint at Svix: %w", err)
	}
	return nil
}

// statusOf is the answer that the error stands for; 0 where there was none.
func statusOf(err error) int {
	if answer, ok := errors.AsType[*sdk.Error](err); ok {
		return answer.Status()
	}
	return 0
}

// Messages returns which events' messages Svix has of the merchant, of those created since the time. It reads them all.
func (c *Client) Messages(ctx context.Context, merchantID string, since time.Time) ([]messageid.Message, error) {
	if err := Fit(merchantID); err != nil {
		return nil, err
	}
	var out []messageid.Message
	options := sdk.MessageListOptions{Limit: new(uint64(endpointsPage)), After: &since, WithContent: new(false)}
	for {
		page, err := c.messages(ctx, merchantID, options)
		if err != nil {
			return nil, fmt.Errorf("listing the messages at Svix: %w", err)
		}
		for _, each := range page.Data {
			if each.EventId == nil || each.Timestamp.Before(since) {
				continue
			}
			if message, err := messageid.Parse(*each.EventId); err == nil {
				out = append(out, message)
			}
		}
		if page.Done || page.Iterator == nil {
			return out, nil
		}
		options.Iterator = page.Iterator
	}
}

func (c *Client) messages(ctx context.Context, merchantID string, options sdk.MessageListOptions) (*models.ListResponseMessageOut, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	return c.api.Message.List(ctx, merchantID, &options)
}
