package sdk

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"sync"
	"syscall"

	"github.com/hashicorp/go-hclog"
	plugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"github.com/plugboard/plugboard/sdk/pluginpb"
)

// The exit codes of a plugin's executable.
const (
	exitOK       = 0
	exitFailed   = 1 // the command that was run by hand failed
	exitUsage    = 2 // asked for something it does not know
	exitInvalid  = 3 // the plugin describes itself wrongly: a mistake of its author
	exitOrphaned = 4 // the server is gone
)

// Serve is what a plugin's main calls, once, last and with nothing running beside.
// Started by a server it serves the plugin until the server ends it; started by
// hand it explains itself, describes the plugin or runs one command (see --help).
// It ends the process if anything is wrong, and returns when the server has stopped
// it.
//
// From then on SIGINT and SIGTERM are ignored, since the server drains the plugin
// before it ends; standard output goes to the server's log; and the process exits
// at once, whatever it is doing, when the server is gone.
func Serve(p Plugin) {
	server, err := NewServer(p)
	if err != nil {
		fmt.Fprintf(os.Stderr, "This plugin describes itself wrongly.\n%v\n", err)
		os.Exit(exitInvalid)
	}
	if os.Getenv(pluginpb.MagicCookieKey) != pluginpb.MagicCookieValue {
		os.Exit(runByHand(server, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	if err := watchLifeline(os.Getenv(pluginpb.EnvLifelineFD)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(exitOrphaned)
	}
	ignoreSignals()
	if err := divertStdout(); err != nil {
		fmt.Fprintln(os.Stderr, err) // only prints past os.Stdout are lost
	}
	config := serveConfig(server)
	config.GRPCServer = grpcServer(keepStderr()...)
	plugin.Serve(config)
	server.Wait()
}

func serveConfig(server *Server) *plugin.ServeConfig {
	return &plugin.ServeConfig{
		HandshakeConfig: pluginpb.Handshake(),
		Plugins:         pluginpb.ServerPlugins(server),
		Logger:          hclog.New(&hclog.LoggerOptions{Name: "go-plugin", Level: hclog.Warn, Output: os.Stderr, JSONFormat: true}),
	}
}

// grpcServer makes the gRPC server for go-plugin. Not WaitForHandlers: go-plugin
// stops the server from inside a handler, which would wait for itself.
func grpcServer(more ...grpc.ServerOption) func([]grpc.ServerOption) *grpc.Server {
	return func(options []grpc.ServerOption) *grpc.Server {
		return grpc.NewServer(slices.Concat(options, pluginpb.ServerOptions(), more)...)
	}
}

// keepStderr takes os.Stderr back from go-plugin, which puts a pipe in its place that
// it copies to the server over gRPC: what is written there right before the process
// ends would be lost. The server reads the real one, too. Go-plugin replaces it
// before it serves, and no code of an author's runs before the first request that
// an interceptor sees.
func keepStderr() []grpc.ServerOption {
	stderr := os.Stderr
	var once sync.Once
	restore := func() { once.Do(func() { os.Stderr = stderr }) }
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			restore()
			return next(ctx, req)
		}),
		grpc.ChainStreamInterceptor(func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			restore()
			return next(srv, stream)
		}),
	}
}

// watchLifeline exits the process when the pipe that only the server holds open
// ends: it does so however the server dies. An empty fd means there is none.
func watchLifeline(fd string) error {
	if fd == "" {
		return nil
	}
	n, err := strconv.Atoi(fd)
	if err != nil || n < 3 {
		return fmt.Errorf("watch the lifeline: %s is %q, want the number of an inherited descriptor", pluginpb.EnvLifelineFD, fd)
	}
	syscall.CloseOnExec(n)
	if err := syscall.SetNonblock(n, true); err != nil {
		return fmt.Errorf("watch the lifeline: descriptor %d: %w", n, err)
	}
	pipe := os.NewFile(uintptr(n), "lifeline")
	go func() { // as long as the process
		_, _ = io.Copy(io.Discard, pipe) // its end is the message, by whatever error
		os.Exit(exitOrphaned)
	}()
	return nil
}

// ignoreSignals takes SIGINT and SIGTERM and does nothing: a service manager sends
// them to plugins too, before the server has drained them. Not signal.Ignore, which
// the plugin's own child processes would inherit.
func ignoreSignals() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() { // as long as the process
		for range signals {
		}
	}()
}
