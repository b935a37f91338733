package transport_test

import (
	"context"
	"net"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/core/hub"
	"github.com/plugboard/plugboard/core/telemetry"
	"github.com/plugboard/plugboard/core/transport"
)

// BenchmarkIdleConnection measures what a connection costs that says nothing, over
// real loopback sockets without TLS: heap and stacks in B/conn, and the process's
// resident memory in rss-B/conn. Clients are bare descriptors, so that only the
// server's side is in the figures. The goal is 8 KiB of the former.
func BenchmarkIdleConnection(b *testing.B) {
	const connections = 2000
	h := &house{woken: make(chan string, 1), tokens: map[string]core.Principal{
		token: {UserID: "alice", IssuedAt: time.Now(), ExpiresAt: time.Now().Add(time.Hour)},
	}, mailbox: func() (core.Mailbox, error) { return core.Mailbox{}, nil }, hub: hub.New()}
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	tr := transport.New(transport.Options{
		Listener: ln, HostAllowed: func(string) bool { return true }, MaxFrameBytes: 64 << 10, SendQueue: 256, MaxCalls: 64,
		TrustedProxies: []netip.Prefix{}, Connections: 1 << 20, PerUser: 1 << 20, PerAddress: 1 << 20, Heartbeat: 30 * time.Second,
		SignIns: h, Tokens: h, Keys: h, Mailboxes: h, Sessions: forgetful{}, Commands: h, Hub: h.hub, Delivery: h, Handler: h,
		Health: telemetry.NewHealth(), AuthLimit: &h.limits, MessageLimit: &h.limits, Now: time.Now, Logger: zerolog.Nop(),
	})
	if err := tr.Start(b.Context()); err != nil {
		b.Fatal(err)
	}
	var heap, resident uint64
	for b.Loop() {
		warm := connectIdle(b, ln.Addr(), 50) // what a server pays once is not a connection's
		heapBefore, residentBefore := memory(b)
		fds := connectIdle(b, ln.Addr(), connections)
		heapAfter, residentAfter := memory(b)
		heap += heapAfter - heapBefore
		resident += residentAfter - min(residentBefore, residentAfter)
		for _, fd := range append(fds, warm...) {
			_ = syscall.Close(fd)
		}
		for n := 1; n > 0; n, _ = h.hub.Count() {
			time.Sleep(time.Millisecond)
		}
	}
	per := float64(b.N * connections)
	b.ReportMetric(float64(heap)/per, "B/conn")
	b.ReportMetric(float64(resident)/per, "rss-B/conn")
	if got := float64(heap) / per; got > 8<<10 {
		b.Errorf("got %.0f bytes for an idle connection, want at most 8 KiB", got)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := tr.Stop(ctx); err != nil {
		b.Error(err)
	}
}

// forgetful keeps no rows.
type forgetful struct{}

func (forgetful) OpenSession(context.Context, *core.SessionRow) error  { return nil }
func (forgetful) CloseSession(context.Context, *core.SessionRow) error { return nil }

func connectIdle(b *testing.B, addr net.Addr, n int) []int {
	b.Helper()
	_, port, _ := strings.Cut(addr.String(), ":")
	number, err := strconv.Atoi(port)
	if err != nil {
		b.Fatal(err)
	}
	request := []byte("GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: plugboard.v1\r\nAuthorization: Bearer " + token + "\r\n\r\n")
	fds := make([]int, 0, n+50)
	buf := make([]byte, 4096)
	for range n {
		fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			b.Fatal(err)
		}
		if err := syscall.Connect(fd, &syscall.SockaddrInet4{Port: number, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
			b.Fatal(err)
		}
		if _, err := syscall.Write(fd, request); err != nil {
			b.Fatal(err)
		}
		for got := ""; !strings.Contains(got, `"welcome"`); {
			k, err := syscall.Read(fd, buf)
			if err != nil || k == 0 {
				b.Fatalf("got %q: %v", got, err)
			}
			got += string(buf[:k])
		}
		fds = append(fds, fd)
	}
	return fds
}

// memory is the live heap with all stacks, and the resident set, in bytes.
func memory(b *testing.B) (live, resident uint64) {
	b.Helper()
	time.Sleep(200 * time.Millisecond) // writers retire
	runtime.GC()
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	data, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		b.Fatal(err)
	}
	pages, err := strconv.ParseUint(strings.Fields(string(data))[1], 10, 64)
	if err != nil {
		b.Fatal(err)
	}
	return m.HeapAlloc + m.StackInuse, pages * uint64(os.Getpagesize())
}
