package conformance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/plugboard/plugboard/sdk/pluginpb"
)

const (
	// startLimit is how long a plugin may take until its handshake, as by default on a
	// server; answerLimit how long anything may take that should take milliseconds.
	startLimit  = 10 * time.Second
	answerLimit = 5 * time.Second
	// exitLimit is how long a process may outlive what ends it.
	exitLimit = 2 * time.Second
)

// Options say what is checked, and how it is started. Path is required.
type Options struct {
	// Path is the executable.
	Path string
	// Name is the plugin's; empty takes the file's name.
	Name string
	// Settings are one JSON object for the plugin; nil is {}.
	Settings []byte
	// Command makes what starts the executable in a directory, for a caller that puts
	// something around it; nil starts it plainly. It must pass on descriptor 3 and the
	// environment.
	Command func(path, dir string) (*exec.Cmd, error)
	// Output takes what the plugin prints, line by line; nil drops it.
	Output io.Writer
	// OnCheck is told each check as it is done; nil is fine.
	OnCheck func(Check)
	// Only names the checks to make, by their [Check.ID]; nil makes all. Description and
	// schemas are always made: what they find is what the others call.
	Only []string
}

// suite is one run over one executable.
type suite struct {
	o         Options
	log       io.Writer
	root      string
	started   int
	processes []*process

	about *pluginpb.DescribeResponse // nil until it was heard
	safe  []call                     // what may be called without harm
}

// call is something that may be called.
type call struct {
	command *pluginpb.CommandDescription
	params  []byte
}

// skipped is why a check does not apply.
type skipped string

func (s skipped) Error() string { return string(s) }

// Run holds an executable against the contract. The error is about the run itself:
// an executable that is none, a check that there is not, a directory that cannot be
// made, or ctx that ended.
// What the plugin does wrong stands in the report.
func Run(ctx context.Context, o Options) (*Report, error) {
	path, err := filepath.Abs(o.Path)
	if err != nil {
		return nil, fmt.Errorf("check plugin: %w", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("check plugin: %w", err)
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0 {
		return nil, fmt.Errorf("check plugin: %s is not a regular, executable file", o.Path)
	}
	for _, id := range o.Only {
		if !slices.ContainsFunc(checks(), func(c check) bool { return c.id == id }) {
			return nil, fmt.Errorf("check plugin: there is no check %q; want one of %s", id, strings.Join(IDs(), ", "))
		}
	}
	o.Path = path
	if o.Name == "" {
		o.Name = filepath.Base(path)
	}
	root, err := os.MkdirTemp("", "pbc-") // short: sockets lie in it
	if err != nil {
		return nil, fmt.Errorf("check plugin: %w", err)
	}
	s := &suite{o: o, log: o.Output, root: root}
	report := &Report{Plugin: o.Name}
	for _, c := range checks() {
		if ctx.Err() != nil {
			break
		}
		if !o.makes(c.id) {
			continue
		}
		report.Checks = append(report.Checks, s.run(ctx, c))
		if o.OnCheck != nil {
			o.OnCheck(report.Checks[len(report.Checks)-1])
		}
		if c.id == "description" && report.count(Fail) > 0 {
			break // what it says of itself is what everything else is held against
		}
	}
	report.Version = clean(s.about.GetVersion())
	return report, errors.Join(ctx.Err(), os.RemoveAll(root))
}

// IDs are the checks that there are, in the order in which they are made.
func IDs() []string {
	var ids []string
	for _, c := range checks() {
		ids = append(ids, c.id)
	}
	return ids
}

func (o *Options) makes(id string) bool {
	return o.Only == nil || id == "description" || id == "schemas" || slices.Contains(o.Only, id)
}

// run makes one check, and sees to it that no process of it is left.
func (s *suite) run(ctx context.Context, c check) Check {
	begun := time.Now()
	ctx, cancel := context.WithTimeout(ctx, c.limit())
	defer cancel()
	detail, err := c.do(s, ctx)
	for _, p := range s.processes {
		p.discard()
	}
	s.processes = nil
	out := Check{ID: c.id, Title: c.title, Outcome: Pass, Detail: detail, Duration: time.Since(begun)}
	if why, ok := errors.AsType[skipped](err); ok {
		out.Outcome, out.Detail = Skip, string(why)
	} else if err != nil {
		out.Outcome, out.Detail = Fail, quote(err.Error())
	}
	return out
}

// open starts a process and its session, configured and ready.
func (s *suite) open(ctx context.Context, grants ...string) (*process, *session, error) {
	p, client, err := s.launch(ctx)
	if err != nil {
		return p, nil, s.tell(p, err)
	}
	ss, err := openSession(ctx, client, s.o.Settings, grants)
	if err != nil {
		return p, nil, s.tell(p, err)
	}
	return p, ss, nil
}

// tell adds how the process fared to an error.
func (s *suite) tell(p *process, err error) error {
	if p == nil {
		return err
	}
	return fmt.Errorf("%w; %s", err, p.story())
}

// probe is the best thing to call: without effect, if possible without progress.
func (s *suite) probe() (call, error) {
	if len(s.safe) == 0 {
		return call{}, skipped("no command can be called without knowing its effect: give one an example, or mark it read-only")
	}
	best, points := s.safe[0], -1
	for _, c := range s.safe {
		n := 0
		if c.command.GetReadOnly() {
			n += 4
		}
		if c.command.GetIdempotent() {
			n += 2
		}
		if !c.command.GetStreaming() {
			n++
		}
		if n > points {
			best, points = c, n
		}
	}
	return best, nil
}
