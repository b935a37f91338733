package sdk

import (
	"context"
	"io"
	"sync"

	"github.com/plugboard/plugboard/sdk/pluginpb"
)

// What the external tests need of the inside: a plugin's executable without a
// process, and a session without gRPC.

// RunByHand is the executable without a server.
func RunByHand(p Plugin, args []string, stdin io.Reader, stdout, stderr io.Writer) (int, error) {
	s, err := NewServer(p)
	if err != nil {
		return exitInvalid, err
	}
	return runByHand(s, args, stdin, stdout, stderr), nil
}

// ServeStream runs one session over two channels.
func ServeStream(ctx context.Context, p Plugin, down chan *pluginpb.ServerMessage, up chan *pluginpb.PluginMessage) error {
	o, err := newOffer(p)
	if err != nil {
		return err
	}
	var receivers sync.WaitGroup
	ctx, stop := context.WithCancel(ctx)
	err = newSession(o, &memoryStream{ctx: ctx, down: down, up: up}, &receivers).run()
	stop()
	receivers.Wait()
	return err
}

// The bounds that tests fill.
const (
	MaxCalls     = maxCalls
	QueueLength  = queueLength
	UrgentLength = urgentLength
)
