package hostsvc

import (
	"context"
	"fmt"
	"math"
	"unicode/utf8"

	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/pluginpb"
	"github.com/plugboard/plugboard/sdk/wire"
)

func checkText(text string) error {
	switch {
	case text == "":
		return fault.New(fault.InvalidRequest, "The text is empty; want at least one byte.")
	case !utf8.ValidString(text):
		return fault.New(fault.InvalidRequest, "The text is not UTF-8.")
	}
	return nil
}

// send stores a message for a user. Whether it fits into a frame is the host's to
// say.
func (s *Service) send(ctx context.Context, req *pluginpb.SendRequest) (*pluginpb.HostReply, error) {
	if err := checkText(req.GetText()); err != nil {
		return nil, err
	}
	if !wire.ValidUserID(req.GetUserId()) {
		return nil, fault.New(fault.UnknownUser, "There is no such user: a user id matches ^[a-z0-9][a-z0-9._-]{0,62}$.")
	}
	if err := s.usage.takeSend(); err != nil {
		return nil, err
	}
	sent, err := s.host.Send(ctx, s.plugin, req.GetUserId(), req.GetText())
	if err != nil {
		return nil, fmt.Errorf("send: %w", err)
	}
	return &pluginpb.HostReply{Reply: &pluginpb.HostReply_Send{Send: &pluginpb.SendReply{
		MessageId: sent.ID, Seq: int64(min(sent.Seq, math.MaxInt64)),
	}}}, nil
}

func (s *Service) broadcast(ctx context.Context, req *pluginpb.BroadcastRequest) (*pluginpb.HostReply, error) {
	if err := checkText(req.GetText()); err != nil {
		return nil, err
	}
	if err := s.usage.takeBroadcast(); err != nil {
		return nil, err
	}
	reach, err := s.host.Broadcast(ctx, s.plugin, req.GetText())
	if err != nil {
		return nil, fmt.Errorf("broadcast: %w", err)
	}
	s.usage.countReach(reach)
	return &pluginpb.HostReply{Reply: &pluginpb.HostReply_Broadcast{Broadcast: &pluginpb.BroadcastReply{Recipients: int64(reach.Queued)}}}, nil
}
