package config

import (
	"net"
	"net/netip"
	"slices"
	"strings"
)

// Hosts is the names by which clients reach the server: lower-case host or
// host:port, IPv6 in brackets.
type Hosts []string

// Allowed reports whether host, the value of a Host header, is one of the names.
// Case does not matter. An entry without a port stands for the default ports 80
// and 443, written or left out; for a loopback name it stands for any port. It
// is pure and may be called from anywhere.
func (h Hosts) Allowed(host string) bool {
	name, port, ok := splitHost(strings.ToLower(host))
	if !ok {
		return false
	}
	return slices.ContainsFunc(h, func(entry string) bool {
		wantName, wantPort, ok := splitHost(entry)
		switch {
		case !ok || name != wantName:
			return false
		case wantPort != "":
			return port == wantPort || port == "" && (wantPort == "80" || wantPort == "443")
		}
		return port == "" || port == "80" || port == "443" || isLoopback(name)
	})
}

// splitHost takes host, host:port, [v6] or [v6]:port apart. The name comes
// without brackets; ok is false for anything else.
func splitHost(s string) (name, port string, ok bool) {
	if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") || !strings.Contains(s, ":") {
		name = strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")
	} else {
		var err error
		if name, port, err = net.SplitHostPort(s); err != nil || !validPort(port) || port == "0" {
			return "", "", false
		}
	}
	if strings.HasPrefix(s, "[") {
		addr, err := netip.ParseAddr(name)
		return name, port, err == nil && addr.Is6()
	}
	return name, port, validHostname(name)
}

func validHostname(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '.' && c != '_' {
			return false
		}
	}
	return true
}

// validPort accepts 0 to 65535 in plain digits.
func validPort(s string) bool {
	if s == "" || len(s) > 5 {
		return false
	}
	n := 0
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
		n = n*10 + int(s[i]-'0')
	}
	return n <= 65535
}

func isLoopback(name string) bool {
	addr, err := netip.ParseAddr(name)
	return name == "localhost" || err == nil && addr.IsLoopback()
}

// isWildcard reports whether the host of a listen address means every address of
// the machine.
func isWildcard(name string) bool {
	addr, err := netip.ParseAddr(name)
	return name == "" || err == nil && addr.IsUnspecified()
}

// defaultHosts is the loopback names with the port of listen, and listen itself.
// With port 0 the port is not known yet: the names stand alone.
func defaultHosts(listen string) Hosts {
	host, port, err := net.SplitHostPort(strings.ToLower(listen))
	if err != nil {
		return Hosts{}
	}
	var out Hosts
	for _, name := range []string{"localhost", "127.0.0.1", "::1", host} {
		if isWildcard(name) {
			continue
		}
		entry := net.JoinHostPort(name, port)
		if port == "0" {
			entry = strings.TrimSuffix(entry, ":0")
		}
		if !slices.Contains(out, entry) {
			out = append(out, entry)
		}
	}
	return out
}
