package sdk

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/google/jsonschema-go/jsonschema"
	"golang.org/x/mod/semver"

	"github.com/plugboard/plugboard/sdk/pluginpb"
)

// offer is a plugin that has been checked, and what it answers to Describe. It is
// immutable.
type offer struct {
	plugin   Plugin
	commands map[string]*offeredCommand
	settings *settings // nil: takes none
	describe *pluginpb.DescribeResponse
}

type offeredCommand struct {
	Command
	params, result *jsonschema.Resolved
}

var (
	pluginName  = regexp.MustCompile(`^[a-z][a-z0-9]{0,31}$`)
	commandPart = regexp.MustCompile(`^[a-z][a-z0-9_]{0,62}$`)
)

// newOffer checks a plugin and returns all that is wrong with it, joined.
func newOffer(p Plugin) (*offer, error) {
	o := &offer{plugin: p, commands: make(map[string]*offeredCommand, len(p.Commands))}
	o.describe = &pluginpb.DescribeResponse{
		Name: p.Name, Version: p.Version, Summary: p.Summary, Homepage: p.Homepage, License: p.License,
	}
	problems := checkPlugin(p)
	for _, c := range p.Needs {
		o.describe.Capabilities = append(o.describe.Capabilities, string(c))
	}
	var err error
	if o.settings, err = newSettings(p.Settings); err != nil {
		problems = append(problems, err)
	} else if o.settings != nil {
		o.describe.SettingsSchema = o.settings.schemaJSON
	}
	seen := make(map[string]bool)
	for _, c := range p.Commands {
		if seen[c.name] {
			problems = append(problems, fmt.Errorf("command %q: there are two of this name", c.name))
			continue
		}
		seen[c.name] = true
		offered, description, err := offerCommand(p.Name, c)
		if err != nil {
			problems = append(problems, fmt.Errorf("command %q: %w", c.name, err))
			continue
		}
		o.commands[c.name] = offered
		o.describe.Commands = append(o.describe.Commands, description)
	}
	return o, errors.Join(problems...)
}

func checkPlugin(p Plugin) (problems []error) {
	if !pluginName.MatchString(p.Name) {
		problems = append(problems, fmt.Errorf("name %q: want %s", p.Name, pluginName))
	}
	if v := "v" + p.Version; !semver.IsValid(v) || semver.Canonical(v)+semver.Build(v) != v {
		problems = append(problems, fmt.Errorf("version %q: want a full semantic version such as 1.0.0", p.Version))
	}
	if p.Summary == "" {
		problems = append(problems, errors.New("summary: want one line that says what the plugin is for"))
	}
	if len(p.Commands) == 0 {
		problems = append(problems, errors.New("commands: want at least one"))
	}
	seen := make(map[Capability]bool)
	for _, c := range p.Needs {
		switch {
		case !c.valid():
			problems = append(problems, fmt.Errorf("need %q: want server, users, commands, kv, send or broadcast", c))
		case seen[c]:
			problems = append(problems, fmt.Errorf("need %q: stands there twice", c))
		}
		seen[c] = true
	}
	return problems
}

func offerCommand(plugin string, c Command) (*offeredCommand, *pluginpb.CommandDescription, error) {
	part, further := strings.CutPrefix(c.name, plugin+".")
	switch {
	case c.name != plugin && (!further || !commandPart.MatchString(part)):
		return nil, nil, fmt.Errorf("want the name %q, or %q and a part %s", plugin, plugin+".", commandPart)
	case c.err != nil:
		return nil, nil, c.err
	case c.run == nil:
		return nil, nil, errors.New("want a command made by sdk.Handle or sdk.Stream")
	case c.summary == "":
		return nil, nil, errors.New("want a summary: one line that says what it does")
	}
	offered := &offeredCommand{Command: c}
	var err error
	if offered.params, err = c.params.Resolve(nil); err != nil {
		return nil, nil, fmt.Errorf("resolve its params schema: %w", err)
	}
	if offered.result, err = c.result.Resolve(nil); err != nil {
		return nil, nil, fmt.Errorf("resolve its result schema: %w", err)
	}
	description, err := offered.description()
	return offered, description, err
}

func (c *offeredCommand) description() (*pluginpb.CommandDescription, error) {
	d := &pluginpb.CommandDescription{
		Name: c.name, Summary: c.summary, Description: c.Command.description,
		Streaming: c.streaming, Idempotent: c.idempotent, ReadOnly: c.readOnly, Destructive: c.destructive,
		TimeoutMs: c.timeout.Milliseconds(),
	}
	var err error
	if d.ParamsSchema, err = c.Command.params.MarshalJSON(); err != nil {
		return nil, fmt.Errorf("encode its params schema: %w", err)
	}
	if d.ResultSchema, err = c.Command.result.MarshalJSON(); err != nil {
		return nil, fmt.Errorf("encode its result schema: %w", err)
	}
	for i, e := range c.examples {
		out := &pluginpb.Example{}
		if out.Params, err = encode(e.params); err == nil {
			err = fits(c.params, out.GetParams())
		}
		if err != nil {
			return nil, fmt.Errorf("params of example %d: %w", i+1, err)
		}
		if out.Result, err = encode(e.result); err == nil {
			err = fits(c.result, out.GetResult())
		}
		if err != nil {
			return nil, fmt.Errorf("result of example %d: %w", i+1, err)
		}
		d.Examples = append(d.Examples, out)
	}
	return d, nil
}
