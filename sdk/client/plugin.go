package client

import (
	"errors"
	"strings"
	"time"

	"github.com/plugboard/plugboard/sdk/e2ee"
	"github.com/plugboard/plugboard/sdk/wire"
)

// pluginSender begins the sender of a plugin's message (docs/plugin.md §2). No user
// id has a colon in it.
const pluginSender = "plugin:"

// maxPluginName is the longest name of a plugin, ^[a-z][a-z0-9]{0,31}$.
const maxPluginName = 32

// pluginOf is the plugin that a sender or recipient names, "" where it names none.
func pluginOf(name string) string {
	plugin, ok := strings.CutPrefix(name, pluginSender)
	if !ok || plugin == "" || len(plugin) > maxPluginName || plugin[0] < 'a' {
		return ""
	}
	for i := range len(plugin) {
		if c := plugin[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return ""
		}
	}
	return plugin
}

// fromPlugin hands over a message of a plugin. There is no key by which it could be
// verified, and none that claims to be sealed is believed; else it is dealt with as
// any other, once and in its order.
func (c *Client) fromPlugin(f *wire.Direct, plugin string, at time.Time) (*Message, error) {
	if f.IsSealed() {
		return nil, &e2ee.RefusedError{Check: e2ee.CheckShape, Err: errors.New("it claims to be sealed, which a plugin's message never is")}
	}
	shape := *f
	shape.From = "" // its form was seen to
	if err := shape.Validate(); err != nil {
		return nil, &e2ee.RefusedError{Check: e2ee.CheckShape, Err: err}
	}
	if err := c.o.Identity.checkSeen(f); err != nil {
		return nil, err
	}
	sent, err := wire.ParseTime(f.Timestamp)
	if err != nil {
		return nil, &e2ee.RefusedError{Check: e2ee.CheckShape, Err: err}
	}
	return &Message{From: f.From, Plugin: plugin, ID: f.ID, Seq: f.Seq, Text: []byte(f.Content), SentAt: sent, ServerTime: at}, nil
}
