package main

import (
	"context"
	"fmt"
	"io"
	"net"

	"github.com/twmb/franz-go/pkg/kfake"
)

// kfakeBroker is the embedded stack's Kafka: hidden, as it is no use to anybody but up. Its log is on disk and
// synced before a produce is acknowledged, so that it can be killed like a real broker.
func kfakeBroker(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	fs := newFlags("kfake")
	listen := fs.String("listen", "127.0.0.1:19092", "`host:port` to listen at")
	dir := fs.String("dir", "", "`directory` of the log")
	if _, err := parse(fs, args, 0, "kfake --dir DIR [--listen HOST:PORT]", "Runs a small Kafka broker in the foreground."); err != nil {
		return err
	}
	if *dir == "" {
		return wrongUsage("--dir is missing")
	}
	cluster, err := kfake.NewCluster(
		kfake.NumBrokers(1),
		kfake.ListenFn(func(network, _ string) (net.Listener, error) {
			return (&net.ListenConfig{}).Listen(ctx, network, *listen)
		}),
		kfake.DataDir(*dir),
		kfake.SyncWrites(),
		kfake.WithLogger(kfake.BasicLogger(stderr, kfake.LogLevelWarn)),
	)
	if err != nil {
		return fmt.Errorf("starting the broker: %w", err)
	}
	fmt.Fprintln(stdout, "listening at", cluster.ListenAddrs()[0])
	<-ctx.Done()
	cluster.Close()
	return nil
}
