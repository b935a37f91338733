package hostsvc

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/rs/zerolog"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/pluginpb"
)

// Callers finds the caller of a call in flight of the same plugin.
type Callers func(callID string) (core.Caller, bool)

// The defaults of [Options].
const (
	DefaultKeys          = 10_000
	DefaultBytes         = 16 << 20
	DefaultMaxValueBytes = 1 << 20
)

// Options configure a [Service]. Plugin and Host are required.
type Options struct {
	// Plugin is whose requests are answered.
	Plugin string
	// Grants are the capabilities that the operator granted to it.
	Grants []string
	// Observe answers a request beyond the grants as if it were within them. What was
	// asked for is in Usage.Wanted.
	Observe bool
	// Host does what was asked for.
	Host core.HostServices
	// Usage is the plugin's, the same for all its processes; nil makes one with the
	// default rates.
	Usage *Usage
	// Quota is how much the plugin may keep; each 0 takes DefaultKeys or DefaultBytes.
	Quota core.KVQuota
	// MaxValueBytes is how large one value may be, 1 to 3 MiB, because values travel in
	// messages of at most 4 MiB; 0 takes DefaultMaxValueBytes.
	MaxValueBytes int
	// Logger takes what an operator should see. It names the plugin already.
	Logger zerolog.Logger
}

// Service answers the requests of one session of a plugin. It may be used from any
// goroutine.
type Service struct {
	plugin   string
	grants   map[string]bool
	observe  bool
	host     core.HostServices
	usage    *Usage
	quota    core.KVQuota
	maxValue int
	logger   zerolog.Logger
}

// New makes the service of one session of a plugin.
func New(o Options) *Service {
	s := &Service{
		plugin: o.Plugin, grants: make(map[string]bool, len(o.Grants)), observe: o.Observe, host: o.Host,
		usage: o.Usage, quota: o.Quota, maxValue: o.MaxValueBytes, logger: o.Logger,
	}
	for _, g := range o.Grants {
		s.grants[g] = true
	}
	if s.usage == nil {
		s.usage = NewUsage(UsageOptions{Plugin: o.Plugin})
	}
	if s.quota.Keys == 0 {
		s.quota.Keys = DefaultKeys
	}
	if s.quota.Bytes == 0 {
		s.quota.Bytes = DefaultBytes
	}
	if s.maxValue == 0 {
		s.maxValue = DefaultMaxValueBytes
	}
	s.maxValue = min(s.maxValue, pluginpb.MaxMessageBytes-pluginpb.MaxMessageBytes/4)
	return s
}

// Handle answers one request. It always returns a reply, blocks no longer than
// ctx, and turns a panic of the host into internal: this is the door behind which
// a mistake of ours costs one request.
func (s *Service) Handle(ctx context.Context, req *pluginpb.HostRequest, callers Callers) (reply *pluginpb.HostReply) {
	k, outcome := kindOf(req), outcomeOK
	defer func() {
		if p := recover(); p != nil {
			reply, outcome = s.refuse(req, fmt.Errorf("panic: %v\n%s", p, debug.Stack()))
		}
		s.usage.count(k, outcome)
	}()
	reply, err := s.answer(ctx, req, k, callers)
	if err != nil {
		reply, outcome = s.refuse(req, err)
		return reply
	}
	reply.RequestId = req.GetRequestId()
	return reply
}

func (s *Service) answer(ctx context.Context, req *pluginpb.HostRequest, k kind, callers Callers) (*pluginpb.HostReply, error) {
	if err := s.usage.takeRequest(); err != nil {
		return nil, err
	}
	if k == unknownKind {
		return nil, fault.New(fault.InvalidRequest, "The request is of a kind that this server does not know.")
	}
	if err := s.allow(k.capability); err != nil {
		return nil, err
	}
	switch r := req.GetRequest().(type) {
	case *pluginpb.HostRequest_ServerInfo:
		return s.serverInfo(ctx)
	case *pluginpb.HostRequest_CountUsers:
		return s.countUsers(ctx)
	case *pluginpb.HostRequest_ListUsers:
		return s.listUsers(ctx, r.ListUsers)
	case *pluginpb.HostRequest_ListCommands:
		return s.listCommands(ctx, req.GetCallId(), callers)
	case *pluginpb.HostRequest_KvGet:
		return s.kvGet(ctx, r.KvGet)
	case *pluginpb.HostRequest_KvPut:
		return s.kvPut(ctx, r.KvPut)
	case *pluginpb.HostRequest_KvDelete:
		return s.kvDelete(ctx, r.KvDelete)
	case *pluginpb.HostRequest_KvList:
		return s.kvList(ctx, r.KvList)
	case *pluginpb.HostRequest_Send:
		return s.send(ctx, r.Send)
	case *pluginpb.HostRequest_Broadcast:
		return s.broadcast(ctx, r.Broadcast)
	}
	return nil, fmt.Errorf("answer %s: nothing does", k.name)
}

// allow refuses what was not granted, or in observation only notes it.
func (s *Service) allow(capability string) error {
	if s.grants[capability] {
		return nil
	}
	if wanted, first := s.usage.want(capability); first {
		s.logger.Warn().Str("capability", capability).Bool("answered", s.observe).Str("config", s.configLine(wanted)).
			Msg("Plugin asked for what it was not granted")
	}
	if s.observe {
		return nil
	}
	return fault.Newf(fault.Forbidden, "Plugin %q was not granted the capability %q; it must stand in the plugin's own needs, and in plugins.grants.%s, which is its operator's.",
		s.plugin, capability, s.plugin)
}

// configLine is what an operator may write to grant what the plugin has, and what
// it wanted so far.
func (s *Service) configLine(wanted []string) string {
	var all []string
	for _, c := range capabilities {
		if s.grants[c] || slices.Contains(wanted, c) {
			all = append(all, c)
		}
	}
	return "plugins.grants." + s.plugin + ": [" + strings.Join(all, ", ") + "]"
}

// refuse turns an error into the reply that carries it; the text of an internal
// one stays in the log.
func (s *Service) refuse(req *pluginpb.HostRequest, err error) (reply *pluginpb.HostReply, outcome string) {
	var shown, known *fault.Error
	switch {
	case errors.As(err, &known) && told(known.Code):
		shown = known
		if known.Code == fault.StorageUnavailable {
			s.logger.Warn().Err(err).Msg("Host request refused")
		}
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		shown = fault.New(fault.Overloaded, "The server did not answer the request in time; try again.").WithRetryAfter(time.Second)
	default:
		reference := uuid.NewString()
		s.logger.Error().Err(err).Str("reference", reference).Msg("Host request failed internally")
		shown = fault.From(errors.New("host request failed"), reference)
	}
	return &pluginpb.HostReply{RequestId: req.GetRequestId(), Reply: &pluginpb.HostReply_Error{Error: &pluginpb.HostError{
		Code: string(shown.Code), Message: shown.Message, RetryAfterMs: milliseconds(shown.RetryAfter),
	}}}, string(shown.Code)
}

// milliseconds rounds up, so that a short wait never becomes none.
func milliseconds(d time.Duration) int64 {
	return int64((max(d, 0) + time.Millisecond - 1) / time.Millisecond)
}
