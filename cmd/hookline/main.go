// Command hookline runs and looks at a Hookline stack on this machine.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/hookline/hookline/internal/platform/metrics"
)

// verb is one subcommand. Its run gets the arguments behind its name.
type verb struct {
	name    string
	summary string // one line for the list of verbs; empty hides it
	run     func(ctx context.Context, args []string, stdout, stderr io.Writer) error
}

// verbs is the command line: one file of this directory each, in the order in which a newcomer meets them.
var verbs = []verb{
	{name: "demo", summary: "start the stack, create payments, and show their webhooks arrive", run: runDemo},
	{name: "up", summary: "start the stack in the background, or what of it is not running", run: up},
	{name: "down", summary: "stop the stack; its data stays", run: down},
	{name: "status", summary: "say what of the stack runs", run: status},
	{name: "logs", summary: "print the components' logs", run: logs},
	{name: "doctor", summary: "say what this machine lacks, and how to get it", run: doctor},
	{name: "endpoints", summary: "manage merchants' endpoints and their secrets, and try them", run: endpoints},
	{name: "routes", summary: "say who delivers a merchant's webhooks: this deployment, or Svix", run: routes},
	{name: "keys", summary: "manage the keys that merchants' secrets are encrypted with", run: keys},
	{name: "listen", summary: "bring a merchant's webhooks to the server that you work on", run: runListen},
	{name: "dead", summary: "list, show and drive again the records that could not become a delivery", run: dead},
	{name: "deliveries", summary: "list deliveries, show their attempts, and retry dead ones", run: deliveries},
	{name: "bench", summary: "measure the stack: throughput, latency, CPU and memory of every process", run: runBench},
	{name: "crash-test", summary: "break the stack under load, and prove that nothing is lost", run: runCrashTest},
	{name: "migrate", summary: "bring databases outside the stack to this version's tables", run: migrate},
	{name: "topic", summary: "make the topic on a broker outside the stack", run: topic},
	{name: "slot", summary: "make a CDC's replication slot in a database outside the stack", run: slot},
	{name: "seed", summary: "give a ledger outside the stack the demo merchant", run: seed},
	{name: "seed-svix", summary: "give a self-hosted Svix server the demo merchant, and where its news goes", run: seedSvix},
	{name: "kfake", run: kfakeBroker},
	{name: "balance", run: balancer},
	{name: "svix", run: svixServer},
	{name: "provision", run: provision},
}

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2 // a wrong flag or argument
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		usage(stderr)
		return exitUsage
	}
	switch args[0] {
	case "help", "-h", "-help", "--help":
		usage(stdout)
		return exitOK
	case "version", "-version", "--version":
		fmt.Fprintln(stdout, "hookline", metrics.Version())
		return exitOK
	}
	for _, v := range verbs {
		if v.name != args[0] {
			continue
		}
		err := v.run(ctx, args[1:], stdout, stderr)
		var wrong *usageError
		switch {
		case err == nil:
			return exitOK
		case errors.Is(err, flag.ErrHelp):
			fmt.Fprint(stdout, err)
			return exitOK
		case errors.As(err, &wrong):
			fmt.Fprintf(stderr, "hookline %s: %s; see hookline %s --help\n", v.name, wrong.problem, v.name)
			return exitUsage
		case ctx.Err() != nil:
			fmt.Fprintf(stderr, "hookline %s: interrupted\n", v.name)
			return exitFailed
		default:
			// Some libraries' errors have several lines.
			fmt.Fprintf(stderr, "hookline %s: %s\n", v.name, strings.Join(strings.Fields(err.Error()), " "))
			return exitFailed
		}
	}
	fmt.Fprintf(stderr, "hookline: there is no verb %q; see hookline --help\n", args[0])
	return exitUsage
}

func usage(w io.Writer) {
	fmt.Fprint(w, "hookline runs the whole webhook pipeline on this machine, without containers.\n\nUsage: hookline VERB [flags]; each verb has --help\n\n")
	for _, v := range verbs {
		if v.summary != "" {
			fmt.Fprintf(w, "  %-12s %s\n", v.name, v.summary)
		}
	}
}

// usageError is a mistake on the command line: exit code 2.
type usageError struct{ problem string }

func (e *usageError) Error() string { return e.problem }

func wrongUsage(format string, args ...any) error {
	return &usageError{problem: fmt.Sprintf(format, args...)}
}

// helpError is the answer to --help, on its way to stdout.
type helpError string

func (h helpError) Error() string        { return string(h) }
func (h helpError) Is(target error) bool { return target == flag.ErrHelp }

// newFlags returns the flag set of a verb. Parse it with parse.
func newFlags(name string) *flag.FlagSet {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	return fs
}

// parse reads args into fs and returns what is left, of which there may be at most maxArgs. Flags may also
// follow an argument. synopsis and about make up the help text.
func parse(fs *flag.FlagSet, args []string, maxArgs int, synopsis, about string) ([]string, error) {
	var rest []string
	for {
		err := fs.Parse(args)
		if errors.Is(err, flag.ErrHelp) {
			return nil, help(fs, synopsis, about)
		}
		if err != nil {
			return nil, wrongUsage("%s", err)
		}
		if fs.NArg() == 0 {
			break
		}
		rest = append(rest, fs.Arg(0))
		args = fs.Args()[1:]
	}
	if len(rest) > maxArgs {
		return nil, wrongUsage("unexpected argument %q", rest[maxArgs])
	}
	return rest, nil
}

func help(fs *flag.FlagSet, synopsis, about string) error {
	var text writer
	fmt.Fprintf(&text, "Usage: hookline %s\n\n%s\n", synopsis, about)
	flags := false
	fs.VisitAll(func(*flag.Flag) { flags = true })
	if flags {
		fmt.Fprintln(&text)
		fs.SetOutput(&text)
		fs.PrintDefaults()
	}
	return helpError(text)
}

// writer collects what is printed into it.
type writer []byte

func (w *writer) Write(p []byte) (int, error) {
	*w = append(*w, p...)
	return len(p), nil
}

// printJSON prints v as one JSON object on one line: with --json it is the last line of stdout.
func printJSON(w io.Writer, v any) error {
	line, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encoding the result: %w", err)
	}
	_, err = w.Write(append(line, '\n'))
	return err
}
