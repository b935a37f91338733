// Command plugboard is the server and the command line client of Plugboard.
//
//	plugboard serve                    start the server
//	plugboard register alice           make an identity and register it
//	plugboard call ping                run a command
//	plugboard chat bob                 exchange sealed messages
//
// Answers go to stdout, everything said to a person goes to stderr. Exit codes:
// 0 done, 1 refused or failed, 2 wrong usage or configuration, 3 server not
// reachable, 4 cancelled or timed out.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/plugboard/plugboard/core/admin"
	"github.com/plugboard/plugboard/sdk/fault"
)

// version is set by the linker (see Makefile).
var version = "dev"

// The exit codes.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitUnreachable = 3
	exitCancelled   = 4
)

func main() { os.Exit(run()) }

// run is main for tests, which run it inside their own process.
func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the process at once
	return execute(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
}

func execute(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errOut)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	report(errOut, err)
	return exitCode(err)
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "plugboard",
		Short: "A command server: commands are plugins, messages are sealed",
		Long: `Plugboard is a server that signed-in clients connect to over WebSocket, to run
commands and to exchange messages that the server cannot read. Every command is
a plugin: an executable in the plugins directory, run as a process of its own.`,
		Example: `  plugboard serve                        # a server on 127.0.0.1:8080, data in ./data
  plugboard register alice               # make an identity, prove it, register it
  plugboard call echo '{"text":"hi"}'    # run a command
  plugboard chat bob                     # sealed messages, one line each`,
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err.Error()} })
	root.AddGroup(&cobra.Group{ID: groupServer, Title: "Server:"}, &cobra.Group{ID: groupClient, Title: "Client:"})
	var o clientOptions
	root.AddCommand(
		newServe(), newConfig(), newPlugins(),
		newRegister(&o), newCall(&o), newSend(&o), newChat(&o), newListen(&o), newBroadcast(&o), newUsers(&o),
	)
	return root
}

const (
	groupServer = "server"
	groupClient = "client"
)

// usageError is a mistake on the command line.
type usageError struct{ text string }

func (e usageError) Error() string { return e.text }

// args checks the number of arguments with a sentence that shows how it is meant.
func args(least, most int, example string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, given []string) error {
		if len(given) >= least && len(given) <= most {
			return nil
		}
		return usageError{fmt.Sprintf("%s takes %s, for example: plugboard %s", cmd.CommandPath(), countOf(least, most), example)}
	}
}

func countOf(least, most int) string {
	switch {
	case most == 0:
		return "no argument"
	case least == most && most == 1:
		return "one argument"
	case least == most:
		return fmt.Sprintf("%d arguments", most)
	}
	return fmt.Sprintf("%d to %d arguments", least, most)
}

// report says on stderr what went wrong, and what to do about it where that is
// known.
func report(w io.Writer, err error) {
	text := err.Error()
	var f *fault.Error
	if errors.As(err, &f) {
		text = fmt.Sprintf("%s (%s)", f.Message, f.Code)
	}
	_, _ = fmt.Fprintf(w, "plugboard: %s\n", printable(text))
	if hint := hintFor(err, f); hint != "" {
		_, _ = fmt.Fprintf(w, "hint: %s\n", hint)
	}
}

func hintFor(err error, f *fault.Error) string {
	var usage usageError
	switch {
	case errors.As(err, &usage):
		return "plugboard --help shows what there is"
	case errors.Is(err, admin.ErrNoServer):
		return "plugboard serve starts one; --data-dir or --config names that of another"
	case isUnreachable(err):
		return "is the server running? plugboard serve starts one; --server or PLUGBOARD_SERVER names another"
	case f == nil:
		return ""
	}
	switch f.Code {
	case fault.UnknownCommand:
		return "plugboard call listcommands lists the commands"
	case fault.UserExists:
		return "choose another name, or use the identity file that registered this one"
	case fault.AuthenticationFailed:
		return "plugboard register makes and registers an identity"
	case fault.InvalidParams:
		return string(f.Details)
	}
	return ""
}

func exitCode(err error) int {
	var usage usageError
	switch {
	case errors.As(err, &usage):
		return exitUsage
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return exitCancelled
	case isUnreachable(err), errors.Is(err, admin.ErrNoServer):
		return exitUnreachable
	}
	return exitFailed
}

func isUnreachable(err error) bool {
	var op *net.OpError
	var dns *net.DNSError
	return errors.As(err, &op) && op.Op == "dial" || errors.As(err, &dns)
}
