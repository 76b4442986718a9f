package stack

import (
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// MaxWorkers is how many webhook-workers an embedded stack has at most: more show nothing else on one machine.
const MaxWorkers = 4

// workers are the names of all webhook-workers that there can be.
var workers = []string{WebhookWorker, WebhookWorker + "-2", WebhookWorker + "-3", WebhookWorker + "-4"}

func isWorker(name string) bool { return slices.Contains(workers, name) }

// components are those that these options want, in the order of their start.
func (o Options) components() []string {
	return slices.DeleteFunc(slices.Clone(order), func(name string) bool {
		several := o.Workers > 1
		return name == WorkerProxy && !several || name == Svix && !o.Svix || isWorker(name) && slices.Index(workers, name) >= max(1, o.Workers)
	})
}

// workerURL is where Restate reaches the workers: several share one address, as they do behind a Service.
func (s *stack) workerURL() string {
	if s.Workers > 1 {
		return s.url(WorkerProxy)
	}
	return s.url(WebhookWorker)
}

// proxy spreads Restate's connections over the workers.
func (s *stack) proxy() *part {
	return &part{command: func() (*exec.Cmd, error) {
		var backends []string
		for _, name := range workers[:s.Workers] {
			backends = append(backends, s.address(name))
		}
		return exec.Command(filepath.Join(s.BinDir, "hookline"), "balance", "--listen", s.address(WorkerProxy),
			"--status", s.proxyStatus(), "--to", strings.Join(backends, ",")), nil
	}}
}

// proxyStatus is where the proxy tells of itself: its main port is the workers'.
func (s *stack) proxyStatus() string { return loopback(s.portsOf(WorkerProxy)[1]) }

// workerPort is that of one of several workers: the one that they share is the proxy's.
func workerPort(name string) int {
	const first = 9081
	return first + slices.Index(workers, name)
}
