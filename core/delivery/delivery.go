package delivery

import (
	"context"
	"hash/maphash"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/plugboard/plugboard/core"
)

const (
	// shardCount is the number of loops: a slow read of one user's backlog holds up
	// an eighth of the users at most.
	shardCount = 8
	// hintLimit is how many messages a user's hint carries; beyond it delivery
	// reads them from the store.
	hintLimit = 64
	// pageMessages and pageBytes bound one read of a backlog, and so what one user
	// may take of a loop's turn.
	pageMessages = 64
	pageBytes    = 1 << 20
	// readTimeout bounds one read.
	readTimeout = 5 * time.Second
	// retryAfter is how long a user waits whose mailbox could not be read.
	retryAfter = time.Second
)

// Mailboxes is what delivery needs of the store.
type Mailboxes interface {
	Read(ctx context.Context, userID string, after uint64, limit, maxBytes int) ([]core.Message, error)
	Ack(ctx context.Context, userID string, seq uint64, at time.Time, signed map[uint64]core.Receipt) ([]core.Receipt, error)
}

// Live finds the sessions of a user on this node.
type Live interface {
	Of(userID string) []*core.Session
}

// Options are delivery's neighbours.
type Options struct {
	Mailboxes  Mailboxes
	Live       Live
	Now        func() time.Time
	Logger     zerolog.Logger
	Registerer prometheus.Registerer // nil: counted but not shown
}

// Delivery is the room. Publish, Wake and Acknowledge may be called from any
// goroutine between Start and Stop.
type Delivery struct {
	Options
	metrics *metrics
	seed    maphash.Seed
	shards  [shardCount]*shard
	cancel  context.CancelFunc
	loops   sync.WaitGroup
}

// shard is one loop's work: the users to look at.
type shard struct {
	wake chan struct{} // holds one token: look

	mu       sync.Mutex
	users    map[string][]*core.Message // hints in the order they came; nil is "read the store"
	retrying map[string]struct{}        // users whose retry is due
}

// New makes a delivery that does nothing before Start.
func New(o Options) *Delivery {
	d := &Delivery{Options: o, metrics: newMetrics(o.Registerer), seed: maphash.MakeSeed()}
	for i := range d.shards {
		d.shards[i] = &shard{wake: make(chan struct{}, 1), users: make(map[string][]*core.Message), retrying: make(map[string]struct{})}
	}
	return d
}

// Start starts the loops.
func (d *Delivery) Start(context.Context) error {
	ctx, cancel := context.WithCancel(context.Background())
	d.cancel = cancel
	for _, s := range d.shards {
		d.loops.Go(func() { d.loop(ctx, s) })
	}
	return nil
}

// Stop ends the loops and waits for them. What is committed stays in the store
// for the next connection.
func (d *Delivery) Stop(context.Context) error {
	d.cancel()
	d.loops.Wait()
	return nil
}

// Publish tells that a user's mailbox has grown. It is the core.Bus of a single
// node and never blocks.
func (d *Delivery) Publish(c core.Committed) {
	if len(d.Live.Of(c.UserID)) == 0 {
		return // the session that comes later reads it from the store
	}
	d.look(c.UserID, c.Message)
}

// Wake tells that a session of the user joined, or has room again.
func (d *Delivery) Wake(userID string) { d.look(userID, nil) }

func (d *Delivery) shard(userID string) *shard {
	return d.shards[maphash.String(d.seed, userID)%shardCount]
}

func (d *Delivery) look(userID string, hint *core.Message) {
	s := d.shard(userID)
	s.mu.Lock()
	hints, waiting := s.users[userID]
	switch {
	case hint == nil || waiting && hints == nil:
		s.users[userID] = nil
	case len(hints) < hintLimit:
		s.users[userID] = append(hints, hint)
	default:
		s.users[userID] = nil
	}
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default: // a token is there: the loop will look
	}
}

func (s *shard) take() map[string][]*core.Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.users) == 0 {
		return nil
	}
	users := s.users
	s.users = make(map[string][]*core.Message, len(users))
	return users
}

func (d *Delivery) loop(ctx context.Context, s *shard) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		}
		for userID, hints := range s.take() {
			if ctx.Err() != nil {
				return
			}
			d.deliver(ctx, userID, hints)
		}
	}
}

// deliver brings every session of a user as far as its queue has room.
func (d *Delivery) deliver(ctx context.Context, userID string, hints []*core.Message) {
	frames := make([]*core.Encoded, len(hints)) // each encoded once, by the first session that needs it
	failed := false
	for _, s := range d.Live.Of(userID) {
		complete := hints != nil
		for i, m := range hints {
			if m.Seq <= s.Delivered {
				continue
			}
			if m.Seq != s.Delivered+1 {
				complete = false // a gap: another commit's hint is on its way, or this session lags
				break
			}
			if frames[i] == nil {
				frames[i] = core.Encode(m.Frame())
			}
			if !d.offer(s, m, frames[i]) {
				break // its connection wakes us when there is room
			}
		}
		if !complete && !failed { // a store that failed once need not be asked for every session
			failed = !d.catchUp(ctx, s)
		}
	}
}

// catchUp reads one page of the session's backlog from the store, and asks for
// another turn where there may be more. It reports whether the store answered.
func (d *Delivery) catchUp(ctx context.Context, s *core.Session) bool {
	room := min(s.Outbox.Room(), pageMessages)
	if room == 0 {
		return true // its connection wakes us when there is room
	}
	bounded, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	page, err := d.Mailboxes.Read(bounded, s.UserID(), s.Delivered, room, pageBytes)
	if err != nil {
		if ctx.Err() == nil { // else we are stopping, which is no failure
			d.retry(s.UserID(), err)
		}
		return false
	}
	for i := range page {
		if !d.offer(s, &page[i], core.Encode(page[i].Frame())) {
			return true
		}
	}
	if len(page) > 0 {
		d.Wake(s.UserID())
	}
	return true
}

// retry asks for another turn a little later, once however often the store failed
// meanwhile: retries that bred retries would storm a store in trouble. The timer
// needs no owner: after Stop its hint is noted and nobody looks.
func (d *Delivery) retry(userID string, err error) {
	d.metrics.readFailures.Inc()
	d.Logger.Warn().Err(err).Str("user", userID).Msg("Mailbox could not be read for delivery")
	s := d.shard(userID)
	s.mu.Lock()
	_, due := s.retrying[userID]
	s.retrying[userID] = struct{}{}
	s.mu.Unlock()
	if due {
		return
	}
	time.AfterFunc(retryAfter, func() {
		s.mu.Lock()
		delete(s.retrying, userID)
		s.mu.Unlock()
		d.Wake(userID)
	})
}

func (d *Delivery) offer(s *core.Session, m *core.Message, frame *core.Encoded) bool {
	if !s.Outbox.Offer(frame) {
		d.metrics.deferred.Inc()
		return false
	}
	s.Delivered = m.Seq
	s.Sent.Add(1)
	d.metrics.delivered.Inc()
	d.metrics.latency.Observe(d.Now().Sub(m.ServerTime).Seconds())
	return true
}
