package config

import (
	"math"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/plugboard/plugboard/sdk/wire"
)

// wrongf notes a problem of a key whose source did not already have one.
func (b *builder) wrongf(key, format string, args ...any) {
	if !b.bad[key] {
		b.refusef(key, b.origins[key], format, args...)
	}
}

// validate holds every value against its range, then against the others.
func (b *builder) validate() {
	c := &b.config
	if c.DataDir == "" {
		b.wrongf("data_dir", "is empty; want a directory")
	}
	b.listeners()
	b.names()
	b.choices()
	b.durations()
	b.numbers()
	b.plugins()
	b.tls()
	b.paths()
}

func (b *builder) listeners() {
	s := b.config.Server
	b.address("server.listen", s.Listen)
	if s.AdminListen != "" {
		b.address("server.admin_listen", s.AdminListen)
	}
	_, port, _ := net.SplitHostPort(s.Listen)
	if s.Listen == s.AdminListen && port != "0" {
		b.wrongf("server.admin_listen", "is %q, which is server.listen too; want another address, or an empty text", s.AdminListen)
	}
}

func (b *builder) address(key, listen string) {
	host, port, err := net.SplitHostPort(listen)
	if err != nil || !validPort(port) || host != "" && !validHostname(host) && net.ParseIP(host) == nil {
		b.wrongf(key, "is %q; want host:port with a port from 0 to 65535, such as 127.0.0.1:8080", listen)
	}
}

func (b *builder) names() {
	s := b.config.Server
	for _, h := range s.Hosts {
		if _, _, ok := splitHost(h); !ok {
			b.wrongf("server.hosts", "has %q; want host or host:port, IPv6 in brackets", h)
		}
	}
	for _, o := range s.AllowedOrigins {
		u, err := url.Parse(o)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Scheme+"://"+u.Host != o {
			b.wrongf("server.allowed_origins", "has %q; want scheme://host or scheme://host:port with http or https and nothing after", o)
		}
	}
	for key, name := range map[string]string{"auth.issuer": b.config.Auth.Issuer, "auth.audience": b.config.Auth.Audience} {
		if name == "" || len(name) > 255 {
			b.wrongf(key, "is %q; want a text of 1 to 255 bytes", shorten(name))
		}
	}
}

func (b *builder) choices() {
	c := b.config
	for _, r := range []struct {
		key, value string
		allowed    []string
	}{
		{"server.allow_query_token", c.Server.AllowQueryToken, []string{"loopback", "on", "off"}},
		{"tls.mode", c.TLS.Mode, []string{"off", "files"}},
		{"auth.registration", c.Auth.Registration, []string{"open", "closed"}},
		{"storage.driver", c.Storage.Driver, []string{"sqlite"}},
		{"storage.synchronous", c.Storage.Synchronous, []string{"full", "normal"}},
		{"plugins.trust", c.Plugins.Trust, []string{"owned", "locked"}},
		{"plugins.sandbox", c.Plugins.Sandbox, []string{"auto", "require", "off"}},
		{"log.level", c.Log.Level, []string{"debug", "info", "warn", "error"}},
		{"log.format", c.Log.Format, []string{"auto", "console", "json"}},
	} {
		if !slices.Contains(r.allowed, r.value) {
			b.wrongf(r.key, "is %q; want %s", shorten(r.value), strings.Join(r.allowed, " or "))
		}
	}
}

func (b *builder) durations() {
	c := b.config
	for _, r := range []struct {
		key                string
		value, least, most time.Duration
	}{
		{"server.shutdown_grace", c.Server.ShutdownGrace, 100 * time.Millisecond, 10 * time.Minute},
		{"auth.token_ttl", c.Auth.TokenTTL, time.Second, time.Hour},
		{"auth.challenge_ttl", c.Auth.ChallengeTTL, time.Second, time.Minute},
		{"messages.retention", c.Messages.Retention, time.Minute, 87600 * time.Hour},
		{"plugins.start_timeout", c.Plugins.StartTimeout, 100 * time.Millisecond, 10 * time.Minute},
		{"plugins.call_timeout", c.Plugins.CallTimeout, time.Millisecond, time.Hour},
		{"plugins.drain_timeout", c.Plugins.DrainTimeout, 100 * time.Millisecond, 10 * time.Minute},
	} {
		if r.value < r.least || r.value > r.most {
			b.wrongf(r.key, "is %s; want %s to %s", showDuration(r.value), showDuration(r.least), showDuration(r.most))
		}
	}
}

func (b *builder) numbers() {
	l := b.config.Limits
	if l.MaxFrameBytes < KiB || l.MaxFrameBytes > MiB {
		b.wrongf("limits.max_frame_bytes", "is %v; want 1KiB to 1MiB", l.MaxFrameBytes)
	}
	if r := l.MessagesPerSecond; !(r >= 0.01 && r <= 1e6) { // NaN is in no range
		b.wrongf("limits.messages_per_second", "is %v; want 0.01 to 1000000", r)
	}
	for _, r := range []struct {
		key                string
		value, least, most int
	}{
		{"messages.mailbox_limit", b.config.Messages.MailboxLimit, 1, 10_000_000},
		{"limits.burst", l.Burst, 1, 1_000_000},
		{"limits.auth_per_minute", l.AuthPerMinute, 1, 1_000_000},
		{"limits.connections", l.Connections, 1, 1_000_000},
		{"limits.connections_per_user", l.ConnectionsPerUser, 1, 1_000_000},
		{"limits.connections_per_address", l.ConnectionsPerAddress, 1, 1_000_000},
		{"limits.send_queue", l.SendQueue, 16, 65_536},
		{"plugins.max_concurrent", b.config.Plugins.MaxConcurrent, 1, 65_536},
	} {
		if r.value < r.least || r.value > r.most {
			b.wrongf(r.key, "is %d; want %d to %d", r.value, r.least, r.most)
		}
	}
}

func (b *builder) plugins() {
	p := b.config.Plugins
	for name := range p.Settings {
		b.pluginName("plugins.settings."+name, name)
	}
	for name, list := range p.Grants {
		key := "plugins.grants." + name
		b.pluginName(key, name)
		for _, grant := range list {
			if !validGrant(grant) {
				b.wrongf(key, "has %q, which is no grant; want server, users, commands, kv, send, broadcast, net, observe, or read:, write: or exec: and an absolute path", shorten(grant))
			}
		}
	}
	for name, a := range p.Access {
		key := "plugins.access." + name
		b.pluginName(key, name)
		if !(a.Rate >= 0) || math.IsInf(a.Rate, 0) {
			b.wrongf(key+".rate", "is %v; want 0 or more calls per second", a.Rate)
		}
		if a.Timeout < 0 || a.Timeout > time.Hour {
			b.wrongf(key+".timeout", "is %s; want 0s to 1h", showDuration(a.Timeout))
		}
		if slices.Contains(a.Roles, "") {
			b.wrongf(key+".roles", "has an empty role; want names of roles")
		}
	}
}

// validGrant reports whether a plugin can be granted this: a capability of
// docs/plugin.md §2, or something for its process to reach (§6).
func validGrant(grant string) bool {
	switch grant {
	case "server", "users", "commands", "kv", "send", "broadcast", "net", "observe":
		return true
	}
	kind, path, ok := strings.Cut(grant, ":")
	return ok && (kind == "read" || kind == "write" || kind == "exec") && filepath.IsAbs(path) && filepath.Clean(path) == path
}

func (b *builder) pluginName(key, name string) {
	if !wire.ValidCommand(name) {
		b.wrongf(key, "has %q for a name; want lower-case letters, digits and underscores, starting with a letter", shorten(name))
	}
}

func (b *builder) tls() {
	c := b.config
	host, _, err := net.SplitHostPort(c.Server.Listen)
	if err != nil {
		return // said already
	}
	if c.TLS.Mode == "off" && !isLoopback(host) && b.origins["tls.mode"].IsDefault() {
		b.wrongf("server.listen", "is %q, which others can reach without TLS; want a loopback address, tls.mode: files, or tls.mode: off said explicitly (a proxy encrypts)", c.Server.Listen)
	}
	if isWildcard(host) && b.origins["server.hosts"].IsDefault() {
		b.wrongf("server.hosts", "is not set while server.listen is %q, every address of the machine; want the names by which clients reach the server", c.Server.Listen)
	}
	for key, file := range map[string]string{"tls.cert_file": c.TLS.CertFile, "tls.key_file": c.TLS.KeyFile} {
		if c.TLS.Mode == "files" && file == "" {
			b.wrongf(key, "is empty; tls.mode: files needs it, want the path of a PEM file")
		}
	}
}
