package sdk

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/hashicorp/go-hclog"
	plugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"
)

const debugText = `%[1]s %[2]s waits for a server, until Ctrl-C. Have a running server attach it with

  plugboard plugins debug %[1]s --address %[3]s --pid %[4]d

While it is attached nothing is timed, and the server may detach and attach again.
`

// maxSocketPath is the shortest limit that a system sets to the path of a Unix socket
// (macOS; Linux allows 107 bytes), and socketName is longer than go-plugin's names.
const (
	maxSocketPath = 103
	socketName    = "/plugin0123456789"
)

// debugByHand serves the plugin for a server that attaches to it, while a person's
// debugger holds the process: go-plugin's test mode, without cookie and mutual TLS.
// What guards the socket is its directory, which nobody else may enter.
func debugByHand(ctx context.Context, s *Server, args []string, stderr io.Writer) int {
	settings, err := parseDebug(args)
	if errors.Is(err, flag.ErrHelp) {
		printUsage(s, stderr)
		return exitOK
	}
	if err != nil {
		return complain(stderr, exitUsage, "debug: %v", err)
	}
	if settings != nil {
		if f := s.offer.settings.apply(settings); f != nil {
			return complain(stderr, exitFailed, "debug: %v", f)
		}
	}
	dir, err := os.MkdirTemp("", "plugboard-debug-")
	if err != nil {
		return complain(stderr, exitFailed, "debug: make the socket's directory: %v", err)
	}
	defer func() { _ = os.RemoveAll(dir) }() // empty by then
	if n := len(dir) + len(socketName); n > maxSocketPath {
		return complain(stderr, exitFailed, "debug: the path of a socket in %s has %d bytes, want at most %d; set TMPDIR to a shorter directory", dir, n, maxSocketPath)
	}
	restore := setenv(map[string]string{
		plugin.EnvUnixSocketDir: dir, plugin.EnvUnixSocketGroup: "", "PLUGIN_CLIENT_CERT": "", "PLUGIN_MULTIPLEX_GRPC": "",
	})
	defer restore()
	s.patient, s.settings = true, settings
	if err := serveAttached(ctx, s, stderr); err != nil {
		return complain(stderr, exitFailed, "debug: %v", err)
	}
	return exitOK
}

// serveAttached returns when ctx has ended and no session runs any more.
func serveAttached(ctx context.Context, s *Server, stderr io.Writer) error {
	config := serveConfig(s)
	config.Logger = hclog.New(&hclog.LoggerOptions{
		Name: "go-plugin", Level: hclog.Warn, Output: stderr,
		Exclude: func(hclog.Level, string, ...any) bool { return ctx.Err() != nil }, // it calls the end an error
	})
	config.GRPCServer = grpcServer(grpc.ChainUnaryInterceptor(refuseShutdown))
	listening, ended := make(chan *plugin.ReattachConfig, 1), make(chan struct{})
	config.Test = &plugin.ServeTestConfig{Context: ctx, ReattachConfigCh: listening, CloseCh: ended}
	go plugin.Serve(config)
	defer s.Wait()
	select {
	case at := <-listening:
		d := s.offer.plugin
		_, _ = fmt.Fprintf(stderr, debugText, d.Name, d.Version, at.Addr, at.Pid)
	case <-ended:
		return errors.New("serve: go-plugin gave up; its reason stands above")
	}
	<-ended
	if ctx.Err() == nil {
		return errors.New("serve: the listener ended")
	}
	return nil
}

// refuseShutdown answers go-plugin's request to end without doing so: a server that
// lets go of the plugin does not own its process.
func refuseShutdown(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if info.FullMethod == "/plugin.GRPCController/Shutdown" {
		return &emptypb.Empty{}, nil
	}
	return next(ctx, req)
}

func parseDebug(args []string) (settings []byte, err error) {
	flags := flag.NewFlagSet("debug", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	text := flags.String("settings", "", "")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	if flags.NArg() > 0 {
		return nil, fmt.Errorf("want no argument, got %q", flags.Arg(0))
	}
	if *text == "" {
		return nil, nil
	}
	return readSettings(*text)
}

// readSettings is JSON, or that of a file after an @.
func readSettings(text string) ([]byte, error) {
	file, ok := strings.CutPrefix(text, "@")
	if !ok {
		return []byte(text), nil
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the settings: %w", err)
	}
	return raw, nil
}

// untilAsked ends when the person at the terminal or a service manager asks for it; a
// second time ends the process.
func untilAsked() (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// setenv sets variables, those with an empty value by removing them, and returns what
// sets them back.
func setenv(vars map[string]string) (restore func()) {
	before := make(map[string]string)
	for name, value := range vars {
		if old, ok := os.LookupEnv(name); ok {
			before[name] = old
		}
		if value == "" {
			_ = os.Unsetenv(name) // fails only for a name that is none
		} else {
			_ = os.Setenv(name, value)
		}
	}
	return func() {
		for name := range vars {
			if old, ok := before[name]; ok {
				_ = os.Setenv(name, old)
			} else {
				_ = os.Unsetenv(name)
			}
		}
	}
}
