package conformance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/google/jsonschema-go/jsonschema"
	"golang.org/x/mod/semver"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/plugboard/plugboard/sdk/pluginpb"
	"github.com/plugboard/plugboard/sdk/wire"
)

// check is one thing that a plugin has to do.
type check struct {
	id    string
	title string
	do    func(*suite, context.Context) (detail string, err error)
	slow  bool
}

func (c *check) limit() time.Duration {
	if c.slow {
		return 2 * startLimit
	}
	return startLimit + answerLimit
}

// checks are all, in the order in which they are made.
func checks() []check {
	return []check{
		{"handshake", "gives its handshake in time, on a socket in its own directory", (*suite).handshake, false},
		{"description", "describes itself by the rules", (*suite).description, false},
		{"schemas", "its schemas compile, and its examples fit them", (*suite).schemas, false},
		{"settings", "takes its settings or says why not", (*suite).settings, false},
		{"examples", "runs its examples, and the results fit their schemas", (*suite).examples, true},
		{"unknown-command", "refuses a command that it does not have", (*suite).unknownCommand, false},
		{"bad-params", "survives params that its schema does not allow", (*suite).badParams, false},
		{"progress", "tells progress only before the answer", (*suite).progressCheck, true},
		{"cancel", "answers a call that was cancelled, soon", (*suite).cancelled, true},
		{"deadline", "survives a call without time", (*suite).deadline, false},
		{"concurrency", "answers 64 calls at once, each once", (*suite).concurrency, true},
		{"pipelining", "answers 1,000 calls in a row", (*suite).pipelining, true},
		{"large-params", "survives params near the limit of a message", (*suite).large, true},
		{"unknown-message", "ignores messages that it does not know", (*suite).unknownMessage, false},
		{"ping", "answers pings promptly, also at work", (*suite).pings, false},
		{"ungranted", "copes with being granted nothing", (*suite).ungranted, true},
		{"signals", "ignores SIGTERM and SIGINT while it serves", (*suite).signals, false},
		{"side-by-side", "runs twice at the same time", (*suite).sideBySide, false},
		{"drain", "finishes its calls and closes the stream when told to drain", (*suite).drain, true},
		{"stop", "exits by itself and leaves nothing behind", (*suite).stop, false},
		{"lifeline", "exits when its server is gone", (*suite).lifeline, false},
		{"by-hand", "explains itself to a person who starts it", (*suite).byHand, false},
	}
}

func (s *suite) handshake(ctx context.Context) (string, error) {
	begun := time.Now()
	p, _, err := s.launch(ctx)
	if err != nil {
		return "", s.tell(p, err)
	}
	line, early := p.said()
	if early > 0 {
		return fmt.Sprintf("%s printed to standard output before it; a server skips that", many(early, "line")), nil
	}
	if !strings.HasPrefix(line, "1|1|unix|") {
		return "", fmt.Errorf("the handshake is %q, want core protocol 1, plugin protocol 1 and a unix socket", quote(line))
	}
	return fmt.Sprintf("after %d ms", time.Since(begun).Milliseconds()), nil
}

var namePattern = regexp.MustCompile(`^[a-z][a-z0-9]{0,31}$`)

func (s *suite) description(ctx context.Context) (string, error) {
	p, client, err := s.launch(ctx)
	if err != nil {
		return "", s.tell(p, err)
	}
	d, err := client.Describe(ctx, &pluginpb.DescribeRequest{Server: "plugboard"})
	if err != nil {
		return "", s.tell(p, fmt.Errorf("describe: %w", err))
	}
	s.about = d
	var wrong []string
	that := func(ok bool, format string, args ...any) {
		if !ok {
			wrong = append(wrong, fmt.Sprintf(format, args...))
		}
	}
	oneLine := func(text string) bool { return text != "" && len(text) <= 512 && text == clean(text) }
	that(namePattern.MatchString(d.GetName()) && d.GetName() == s.o.Name, "it calls itself %q, but its file is %q", quote(d.GetName()), s.o.Name)
	version := "v" + d.GetVersion()
	plain, _, _ := strings.Cut(version, "+")
	that(semver.IsValid(version) && semver.Canonical(version) == plain, "version %q is not a semantic version such as 1.0.0", quote(d.GetVersion()))
	that(oneLine(d.GetSummary()), "its summary is not one line of at most 512 bytes")
	for _, c := range d.GetCapabilities() {
		that(slices.Contains([]string{"server", "users", "commands", "kv", "send", "broadcast", "net"}, c), "it asks for %q, which is no capability", quote(c))
	}
	that(len(d.GetCommands()) > 0 && len(d.GetCommands()) <= 256, "it has %d commands, want 1 to 256", len(d.GetCommands()))
	seen := map[string]bool{}
	for _, c := range d.GetCommands() {
		owner, _, _ := strings.Cut(c.GetName(), ".")
		that(owner == s.o.Name && wire.ValidCommand(c.GetName()), "command %q is not named after the plugin", quote(c.GetName()))
		that(!seen[c.GetName()], "command %q stands twice", quote(c.GetName()))
		that(oneLine(c.GetSummary()), "the summary of %q is not one line of at most 512 bytes", quote(c.GetName()))
		that(c.GetTimeoutMs() >= 0, "the timeout of %q is negative", quote(c.GetName()))
		seen[c.GetName()] = true
	}
	if len(wrong) > 0 {
		return "", errors.New(strings.Join(wrong, "; "))
	}
	return many(len(d.GetCommands()), "command"), nil
}

// compile reads a schema that stands by itself.
func compile(raw []byte) (*jsonschema.Resolved, error) {
	var schema jsonschema.Schema
	if err := json.Unmarshal(raw, &schema); err != nil {
		return nil, err
	}
	return schema.Resolve(&jsonschema.ResolveOptions{})
}

func fits(schema *jsonschema.Resolved, raw []byte) error {
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		return err
	}
	return schema.Validate(v)
}

func (s *suite) schemas(context.Context) (string, error) {
	if len(s.about.GetSettingsSchema()) > 0 {
		if _, err := compile(s.about.GetSettingsSchema()); err != nil {
			return "", fmt.Errorf("settings schema: %w", err)
		}
	}
	examples := 0
	for _, c := range s.about.GetCommands() {
		params, err := compile(c.GetParamsSchema())
		if err != nil {
			return "", fmt.Errorf("params schema of %s: %w", quote(c.GetName()), err)
		}
		var result *jsonschema.Resolved
		if len(c.GetResultSchema()) > 0 {
			if result, err = compile(c.GetResultSchema()); err != nil {
				return "", fmt.Errorf("result schema of %s: %w", quote(c.GetName()), err)
			}
		}
		for i, e := range c.GetExamples() {
			examples++
			if err := fits(params, e.GetParams()); err != nil {
				return "", fmt.Errorf("params of example %d of %s: %w", i+1, quote(c.GetName()), err)
			}
			if result != nil {
				if err := fits(result, e.GetResult()); err != nil {
					return "", fmt.Errorf("result of example %d of %s: %w", i+1, quote(c.GetName()), err)
				}
			}
			if !c.GetDestructive() {
				s.safe = append(s.safe, call{c, e.GetParams()})
			}
		}
		if len(c.GetExamples()) == 0 && c.GetReadOnly() && fits(params, []byte("{}")) == nil {
			s.safe = append(s.safe, call{c, []byte("{}")})
		}
	}
	return many(examples, "example"), nil
}

// settled opens a session with everything granted that the plugin asks for. Settings
// that it refuses make a check impossible, not wrong.
func (s *suite) settled(ctx context.Context) (*process, *session, error) {
	p, ss, err := s.open(ctx, s.about.GetCapabilities()...)
	if no, ok := errors.AsType[*refused](err); ok {
		return p, nil, skipped(no.Error() + "; --settings gives it others")
	}
	return p, ss, err
}

func (s *suite) settings(ctx context.Context) (string, error) {
	_, ss, err := s.open(ctx)
	if no, ok := errors.AsType[*refused](err); ok {
		if strings.TrimSpace(no.failure.GetMessage()) == "" {
			return "", errors.New("it refuses its settings and does not say why")
		}
		return no.Error(), nil
	}
	if err != nil {
		return "", err
	}
	return "", ss.kept()
}

func (s *suite) examples(ctx context.Context) (string, error) {
	if len(s.safe) == 0 {
		return "", skipped("there is no example, and no read-only command without params")
	}
	p, ss, err := s.settled(ctx)
	if err != nil {
		return "", err
	}
	failed := 0
	for _, c := range s.safe {
		m, err := s.answerOf(ctx, ss, c)
		if err != nil {
			return "", s.tell(p, fmt.Errorf("%s: %w", quote(c.command.GetName()), err))
		}
		if m.GetFailure() != nil {
			failed++
			continue
		}
		if len(c.command.GetResultSchema()) == 0 {
			continue
		}
		schema, err := compile(c.command.GetResultSchema())
		if err == nil {
			err = fits(schema, m.GetResult().GetResult())
		}
		if err != nil {
			return "", fmt.Errorf("the result of %s does not fit its schema: %w", quote(c.command.GetName()), err)
		}
	}
	detail := many(len(s.safe), "call")
	if failed > 0 {
		detail += fmt.Sprintf(", of which %d ended in a failure that the plugin chose", failed)
	}
	return detail, ss.kept()
}

// answerOf makes a call and waits for its answer.
func (s *suite) answerOf(ctx context.Context, ss *session, c call) (*pluginpb.PluginMessage, error) {
	p, err := ss.begin(c, answerLimit)
	if err != nil {
		return nil, fmt.Errorf("send call: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, 2*answerLimit)
	defer cancel()
	return ss.await(ctx, p)
}

// wrongCall expects a failure, or at least an answer, and life after it.
func (s *suite) wrongCall(ctx context.Context, command string, params []byte, mustFail bool) error {
	p, ss, err := s.settled(ctx)
	if err != nil {
		return err
	}
	c, err := ss.beginAs(command, params, answerLimit)
	if err == nil {
		var m *pluginpb.PluginMessage
		if m, err = ss.await(ctx, c); err == nil && mustFail && m.GetFailure() == nil {
			return errors.New("it answered with a result")
		}
	}
	if err == nil {
		err = ss.ping(ctx, 1)
	}
	if err != nil {
		return s.tell(p, err)
	}
	return ss.kept()
}

func (s *suite) unknownCommand(ctx context.Context) (string, error) {
	return "", s.wrongCall(ctx, s.o.Name+".no_such_command_here", []byte("{}"), true)
}

func (s *suite) badParams(ctx context.Context) (string, error) {
	c, err := s.probe()
	if err != nil {
		return "", err
	}
	return "", s.wrongCall(ctx, c.command.GetName(), []byte(`{"no_such_member_here":[{"a":-1e300}]}`), false)
}

func (s *suite) progressCheck(ctx context.Context) (string, error) {
	i := slices.IndexFunc(s.safe, func(c call) bool { return c.command.GetStreaming() })
	if i < 0 {
		return "", skipped("no streaming command can be called safely")
	}
	p, ss, err := s.settled(ctx)
	if err != nil {
		return "", err
	}
	c, err := ss.begin(s.safe[i], answerLimit)
	if err == nil {
		_, err = ss.await(ctx, c)
	}
	if err == nil {
		err = ss.ping(ctx, 1) // whatever it still had to say came before this
	}
	if err != nil {
		return "", s.tell(p, err)
	}
	return many(c.parts, "part"), ss.kept()
}

func (s *suite) cancelled(ctx context.Context) (string, error) {
	p, ss, err := s.settled(ctx)
	if err != nil {
		return "", err
	}
	if len(s.safe) == 0 {
		_, err := s.probe()
		return "", err
	}
	for _, c := range s.safe {
		begun, err := ss.begin(c, time.Minute)
		if err == nil {
			err = ss.cancelCall(begun)
		}
		soon, done := context.WithTimeout(ctx, answerLimit)
		if err == nil {
			_, err = ss.await(soon, begun)
		}
		done()
		if err != nil {
			return "", s.tell(p, fmt.Errorf("%s: %w", quote(c.command.GetName()), err))
		}
	}
	return many(len(s.safe), "call"), errors.Join(ss.ping(ctx, 1), ss.kept())
}

func (s *suite) deadline(ctx context.Context) (string, error) {
	c, err := s.probe()
	if err != nil {
		return "", err
	}
	p, ss, err := s.settled(ctx)
	if err != nil {
		return "", err
	}
	begun, err := ss.begin(c, time.Millisecond)
	if err == nil {
		_, err = ss.await(ctx, begun)
	}
	if err == nil {
		err = ss.ping(ctx, 1)
	}
	if err != nil {
		return "", s.tell(p, err)
	}
	return "", ss.kept()
}

// burst makes n calls, at most atOnce of them in flight.
func (s *suite) burst(ctx context.Context, n, atOnce int) error {
	c, err := s.probe()
	if err != nil {
		return err
	}
	p, ss, err := s.settled(ctx)
	if err != nil {
		return err
	}
	var open []*pending
	for i := range n + atOnce {
		if i < n {
			begun, err := ss.begin(c, answerLimit)
			if err != nil {
				return s.tell(p, fmt.Errorf("call %d: %w", i+1, err))
			}
			open = append(open, begun)
		}
		if len(open) >= atOnce || i >= n {
			if len(open) == 0 {
				break
			}
			if _, err := ss.await(ctx, open[0]); err != nil {
				return s.tell(p, err)
			}
			open = open[1:]
		}
	}
	if err := ss.ping(ctx, 1); err != nil {
		return s.tell(p, err)
	}
	return ss.kept()
}

func (s *suite) concurrency(ctx context.Context) (string, error) { return "", s.burst(ctx, 64, 64) }
func (s *suite) pipelining(ctx context.Context) (string, error)  { return "", s.burst(ctx, 1000, 16) }

func (s *suite) large(ctx context.Context) (string, error) {
	c, err := s.probe()
	if err != nil {
		return "", err
	}
	params := append([]byte(`{"text":"`), bytes.Repeat([]byte("x"), pluginpb.MaxMessageBytes-64<<10)...)
	return "", s.wrongCall(ctx, c.command.GetName(), append(params, '"', '}'), false)
}

func (s *suite) unknownMessage(ctx context.Context) (string, error) {
	p, ss, err := s.settled(ctx)
	if err != nil {
		return "", err
	}
	strange := &pluginpb.ServerMessage{}
	strange.ProtoReflect().SetUnknown(protowire.AppendBytes(protowire.AppendTag(nil, 1000, protowire.BytesType), []byte("from a later version")))
	ping := &pluginpb.ServerMessage{Message: &pluginpb.ServerMessage_Ping{Ping: &pluginpb.Ping{Nonce: 7}}}
	ping.GetPing().ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 1000, protowire.VarintType), 1))
	if err := errors.Join(ss.send(strange), ss.send(ping)); err != nil {
		return "", s.tell(p, err)
	}
	select {
	case <-ss.pongs:
		return "", ss.kept()
	case <-ss.ended:
		return "", s.tell(p, fmt.Errorf("the stream ended: %w", orEOF(ss.err)))
	case <-ctx.Done():
		return "", errors.New("it answers nothing any more")
	}
}

func (s *suite) pings(ctx context.Context) (string, error) {
	p, ss, err := s.settled(ctx)
	if err != nil {
		return "", err
	}
	c, noProbe := s.probe()
	var open []*pending
	for n := range uint64(20) {
		if noProbe == nil {
			begun, err := ss.begin(c, answerLimit)
			if err != nil {
				return "", s.tell(p, err)
			}
			open = append(open, begun)
		}
		soon, cancel := context.WithTimeout(ctx, time.Second)
		err := ss.ping(soon, n+1)
		cancel()
		if err != nil {
			return "", s.tell(p, err)
		}
	}
	for _, begun := range open {
		if _, err := ss.await(ctx, begun); err != nil {
			return "", s.tell(p, err)
		}
	}
	return "", ss.kept()
}

func (s *suite) ungranted(ctx context.Context) (string, error) {
	if len(s.about.GetCapabilities()) == 0 {
		return "", skipped("it asks for nothing")
	}
	if len(s.safe) == 0 {
		_, err := s.probe()
		return "", err
	}
	p, ss, err := s.open(ctx)
	if no, ok := errors.AsType[*refused](err); ok {
		return no.Error(), nil
	}
	if err != nil {
		return "", err
	}
	for _, c := range s.safe {
		if _, err := s.answerOf(ctx, ss, c); err != nil {
			return "", s.tell(p, fmt.Errorf("%s: %w", quote(c.command.GetName()), err))
		}
	}
	return "", ss.kept()
}

func (s *suite) signals(ctx context.Context) (string, error) {
	p, ss, err := s.settled(ctx)
	if err != nil {
		return "", err
	}
	for n, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		p.signal(signal)
		if p.exits(200 * time.Millisecond) {
			return "", s.tell(p, fmt.Errorf("%v ended it", signal))
		}
		if err := ss.ping(ctx, uint64(n)+1); err != nil {
			return "", s.tell(p, fmt.Errorf("after %v: %w", signal, err))
		}
	}
	return "", ss.kept()
}

func (s *suite) sideBySide(ctx context.Context) (string, error) {
	for range 2 {
		p, ss, err := s.settled(ctx)
		if err != nil {
			return "", err
		}
		if err := ss.ping(ctx, 1); err != nil {
			return "", s.tell(p, err)
		}
	}
	return "", nil
}

func (s *suite) drain(ctx context.Context) (string, error) {
	p, ss, err := s.settled(ctx)
	if err != nil {
		return "", err
	}
	var open []*pending
	if c, err := s.probe(); err == nil {
		for range 8 {
			begun, err := ss.begin(c, answerLimit)
			if err != nil {
				return "", s.tell(p, err)
			}
			open = append(open, begun)
		}
	}
	if err := ss.send(&pluginpb.ServerMessage{Message: &pluginpb.ServerMessage_Drain{Drain: &pluginpb.Drain{}}}); err != nil {
		return "", s.tell(p, err)
	}
	for _, begun := range open {
		if _, err := ss.await(ctx, begun); err != nil {
			return "", s.tell(p, err)
		}
	}
	timer := time.NewTimer(answerLimit)
	defer timer.Stop()
	select {
	case <-ss.ended:
	case <-timer.C:
		return "", fmt.Errorf("the stream is still open %v after the last call", answerLimit)
	}
	if ss.err != nil {
		return "", fmt.Errorf("the stream ended with %w, want the status OK", ss.err)
	}
	return "", ss.kept()
}

func (s *suite) stop(ctx context.Context) (string, error) {
	p, ss, err := s.settled(ctx)
	if err != nil {
		return "", err
	}
	if err := ss.send(&pluginpb.ServerMessage{Message: &pluginpb.ServerMessage_Drain{Drain: &pluginpb.Drain{}}}); err != nil {
		return "", s.tell(p, err)
	}
	select {
	case <-ss.ended:
	case <-ctx.Done():
	}
	if !p.stop(exitLimit) {
		return "", fmt.Errorf("it did not exit within %v of being asked to", exitLimit)
	}
	if p.orphan {
		return "", errors.New("it left a process behind")
	}
	left, err := os.ReadDir(p.home)
	if err != nil {
		return "", fmt.Errorf("look at its directory: %w", err)
	}
	if len(left) != 1 {
		return "", fmt.Errorf("it left %d entries beside its runtime directory", len(left)-1)
	}
	return "", nil
}

func (s *suite) lifeline(ctx context.Context) (string, error) {
	p, _, err := s.settled(ctx)
	if err != nil {
		return "", err
	}
	p.cutLifeline()
	if !p.exits(exitLimit) {
		return "", fmt.Errorf("it goes on %v after the end of its lifeline (the descriptor that %s names)", exitLimit, pluginpb.EnvLifelineFD)
	}
	return "", nil
}

func (s *suite) byHand(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.o.Path) //nolint:gosec // what is checked is to be run
	cmd.Env = bareEnvironment(s.root)
	cmd.Dir = s.root
	cmd.WaitDelay = time.Second
	out, _ := cmd.CombinedOutput() // the exit status is the plugin's business
	if ctx.Err() != nil {
		return "", errors.New("it does not exit; go-plugin's cookie is how it knows that no server started it")
	}
	if len(bytes.TrimSpace(out)) == 0 {
		return "", skipped("it exits without a word")
	}
	return "", nil
}
