package transport

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/plugboard/plugboard/core"
)

// remote says who asks, and by which name. X-Forwarded-For counts only as far as
// trusted proxies wrote it: from the right, the first address that is none of
// theirs.
func (t *Transport) remote(r *http.Request) core.Remote {
	addr := peerAddr(r.RemoteAddr)
	if t.trusted(addr) {
		hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
		for _, text := range slices.Backward(hops) {
			hop, err := netip.ParseAddr(strings.TrimSpace(text))
			if err != nil {
				break
			}
			if addr = hop.Unmap(); !t.trusted(addr) {
				break
			}
		}
	}
	text := ""
	if addr.IsValid() {
		text = addr.String()
	}
	return core.Remote{Addr: text, Host: normalHost(r.Host, t.TLS != nil), UserAgent: printable(r.UserAgent(), 256)}
}

func peerAddr(hostport string) netip.Addr {
	ap, err := netip.ParseAddrPort(hostport)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}

func (t *Transport) trusted(a netip.Addr) bool {
	for _, p := range t.TrustedProxies {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// addressKey is what limits by address count: the address, or the /64 of an IPv6
// one, since a single host commands all of it.
func addressKey(addr string) string {
	a, err := netip.ParseAddr(addr)
	if err != nil || a.Is4() {
		return addr
	}
	p, err := a.WithZone("").Prefix(64)
	if err != nil {
		return addr
	}
	return p.String()
}

// normalHost is the Host header as docs/e2ee.md §1 writes a host: lower case,
// without the scheme's default port.
func normalHost(host string, secure bool) string {
	host = strings.ToLower(host)
	name, port, err := net.SplitHostPort(host)
	if err != nil {
		return host // no port
	}
	if standard := map[bool]string{false: "80", true: "443"}[secure]; port != standard {
		return host
	}
	if strings.Contains(name, ":") {
		return "[" + name + "]"
	}
	return name
}

// printable cuts a stranger's text and replaces what could forge a log line.
func printable(s string, limit int) string {
	if len(s) > limit {
		s = strings.Clone(s[:limit]) // the rest is not ours to keep alive
	}
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}

// seconds rounds up: a Retry-After of 0 would invite a storm.
func seconds(ms uint64) string { return strconv.FormatUint((ms+999)/1000, 10) }
