package sdk

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/plugboard/plugboard/sdk/pluginpb"
)

const usage = `%[1]s %[2]s – %[3]s

This is a plugin of a Plugboard server. It is not meant to be started by hand:
copy it into the server's plugins directory, and its commands are there.

Without a server you can
  %[1]s describe                      print what it offers, as JSON
  %[1]s run [FLAGS] COMMAND [PARAMS]  run one command; PARAMS is a JSON object,
                                      or - to read it from standard input
  %[1]s debug [--settings JSON]       wait for a server that attaches to it, as
                                      under a debugger
  %[1]s help | version

Flags of run
  --settings JSON   the operator's settings, or @FILE (for debug, too: instead of
                    those that the server sends)
  --user ID         the caller's user id (default "you")
  --timeout D       the call's time limit, such as 30s (default: none)

The result goes to standard output; progress, log and errors to standard error.
Exit status: 0 done, 1 the command failed, 2 wrong usage, 3 the plugin itself is
wrong.

Commands
%[4]s`

// runByHand is a plugin's executable without a server. It returns the exit code.
func runByHand(s *Server, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		printUsage(s, stderr)
		return exitUsage
	}
	switch args[0] {
	case "help", "--help", "-help", "-h":
		printUsage(s, stdout)
		return exitOK
	case "version", "--version", "-version":
		_, _ = fmt.Fprintln(stdout, s.offer.plugin.Name, s.offer.plugin.Version)
		return exitOK
	case "describe":
		return describeByHand(s, stdout, stderr)
	case "run":
		ctx, stop := untilAsked()
		defer stop()
		return runCommandByHand(ctx, s, args[1:], stdin, stdout, stderr)
	case "debug":
		ctx, stop := untilAsked()
		defer stop()
		return debugByHand(ctx, s, args[1:], stderr)
	}
	return complain(stderr, exitUsage, "unknown argument %q; try --help", args[0])
}

func complain(stderr io.Writer, code int, format string, args ...any) int {
	_, _ = fmt.Fprintf(stderr, format+"\n", args...)
	return code
}

func printUsage(s *Server, w io.Writer) {
	var commands strings.Builder
	for _, c := range s.offer.describe.GetCommands() {
		fmt.Fprintf(&commands, "  %-24s %s\n", c.GetName(), c.GetSummary())
	}
	d := s.offer.describe
	_, _ = fmt.Fprintf(w, usage, d.GetName(), d.GetVersion(), d.GetSummary(), commands.String())
}

// description is DescribeResponse as people and scripts read it.
type description struct {
	Name         string               `json:"name"`
	Version      string               `json:"version"`
	Summary      string               `json:"summary"`
	Homepage     string               `json:"homepage,omitempty"`
	License      string               `json:"license,omitempty"`
	Capabilities []string             `json:"capabilities"`
	Settings     jsontext.Value       `json:"settings,omitempty"`
	Commands     []commandDescription `json:"commands"`
}

type commandDescription struct {
	Name        string          `json:"name"`
	Summary     string          `json:"summary"`
	Description string          `json:"description,omitempty"`
	Params      jsontext.Value  `json:"params"`
	Result      jsontext.Value  `json:"result"`
	Examples    []describedCall `json:"examples,omitempty"`
	Streaming   bool            `json:"streaming"`
	Idempotent  bool            `json:"idempotent"`
	ReadOnly    bool            `json:"read_only"`
	Destructive bool            `json:"destructive"`
	Timeout     time.Duration   `json:"timeout,omitzero"`
}

type describedCall struct {
	Params jsontext.Value `json:"params"`
	Result jsontext.Value `json:"result"`
}

func describeByHand(s *Server, stdout, stderr io.Writer) int {
	d := s.offer.describe
	out := description{
		Name: d.GetName(), Version: d.GetVersion(), Summary: d.GetSummary(), Homepage: d.GetHomepage(),
		License: d.GetLicense(), Capabilities: d.GetCapabilities(), Settings: d.GetSettingsSchema(),
	}
	for _, c := range d.GetCommands() {
		described := commandDescription{
			Name: c.GetName(), Summary: c.GetSummary(), Description: c.GetDescription(),
			Params: c.GetParamsSchema(), Result: c.GetResultSchema(),
			Streaming: c.GetStreaming(), Idempotent: c.GetIdempotent(), ReadOnly: c.GetReadOnly(),
			Destructive: c.GetDestructive(), Timeout: millis(c.GetTimeoutMs()),
		}
		for _, e := range c.GetExamples() {
			described.Examples = append(described.Examples, describedCall{Params: e.GetParams(), Result: e.GetResult()})
		}
		out.Commands = append(out.Commands, described)
	}
	raw, err := json.Marshal(out, encodeOptions, jsontext.WithIndent("  "))
	if err == nil {
		_, err = fmt.Fprintf(stdout, "%s\n", raw)
	}
	if err != nil {
		return complain(stderr, exitInvalid, "describe: %v", err)
	}
	return exitOK
}

// handRun is what `run` was asked to do.
type handRun struct {
	command  string
	params   []byte
	settings []byte
	user     string
	timeout  time.Duration
}

func runCommandByHand(ctx context.Context, s *Server, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	run, err := parseRun(args, stdin)
	if errors.Is(err, flag.ErrHelp) {
		printUsage(s, stdout)
		return exitOK
	}
	if err != nil {
		return complain(stderr, exitUsage, "run: %v", err)
	}
	command := s.offer.commands[run.command]
	if command == nil {
		return complain(stderr, exitUsage, "run: no command %q; try --help", run.command)
	}
	if err := fits(command.params, run.params); err != nil {
		return complain(stderr, exitFailed, "invalid_params: %v", err)
	}
	if run.timeout == 0 {
		run.timeout = command.timeout
	}
	result, err := runWithoutServer(ctx, s, run, stderr)
	if err != nil {
		return complain(stderr, exitFailed, "%v", err)
	}
	if _, err := fmt.Fprintf(stdout, "%s\n", result); err != nil {
		return complain(stderr, exitFailed, "print the result: %v", err)
	}
	return exitOK
}

func parseRun(args []string, stdin io.Reader) (run handRun, err error) {
	flags := flag.NewFlagSet("run", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	settings := flags.String("settings", "{}", "")
	flags.StringVar(&run.user, "user", "you", "")
	flags.DurationVar(&run.timeout, "timeout", 0, "")
	if err := flags.Parse(args); err != nil {
		return run, err
	}
	if n := flags.NArg(); n < 1 || n > 2 {
		return run, fmt.Errorf("want a command and its params, got %d arguments", n)
	}
	if run.timeout < 0 {
		return run, fmt.Errorf("--timeout %s: want a positive duration", run.timeout)
	}
	run.command, run.params = flags.Arg(0), []byte("{}")
	if run.settings, err = readSettings(*settings); err != nil {
		return run, err
	}
	switch params := flags.Arg(1); params {
	case "":
	case "-":
		raw, err := io.ReadAll(io.LimitReader(stdin, pluginpb.MaxMessageBytes))
		if err != nil {
			return run, fmt.Errorf("read the params: %w", err)
		}
		run.params = bytes.TrimSpace(raw)
	default:
		run.params = []byte(params)
	}
	return run, nil
}
