package stack

import (
	"context"
	"sync"
	"time"
)

// ReadStatus says what of the stack in the state directory runs. An empty dir is .hookline.
func ReadStatus(ctx context.Context, dir string) (Status, error) {
	s, err := openExisting(dir, nil)
	if err != nil {
		return Status{}, err
	}
	return s.status(ctx)
}

func (s *stack) status(ctx context.Context) (Status, error) {
	names := s.components()
	out := Status{
		Components: make([]Component, len(names)), DSN: s.dsn(), Keys: s.secrets.Keys, Intake: s.Intake, Kafka: s.Kafka, Workers: s.Workers,
		CallbackSecret: s.secrets.Callback, WebhookSecret: s.secrets.Webhook, SvixToken: s.secrets.SvixToken,
	}
	var wait sync.WaitGroup
	for i, name := range names {
		record, err := s.record(name)
		if err != nil {
			return Status{}, err
		}
		component := &out.Components[i]
		*component = Component{Name: name, State: StateStopped, Address: s.address(name)}
		if name == Restate {
			component.Admin = loopback(s.portsOf(name)[1])
		}
		if !record.Alive() {
			continue
		}
		component.PID = record.PID
		component.State = StateStarting
		wait.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
			defer cancel()
			if s.ready(ctx, name) == nil {
				component.State = StateReady
			}
		})
	}
	wait.Wait()
	return out, nil
}
