package sdktest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/plugboard/plugboard/sdk"
	"github.com/plugboard/plugboard/sdk/pluginpb"
	"github.com/plugboard/plugboard/sdk/wire"
)

// Host is the server as the plugin sees it. A test sets what it answers, before or
// while the plugin runs, and reads what was asked. Its methods may be called from
// any goroutine. It refuses what a server of the default limits would, but for rates
// and quotas, which a test may have it refuse with [Host.Refuse].
type Host struct {
	grants map[sdk.Capability]bool

	mu       sync.Mutex
	info     sdk.ServerInfo
	users    []sdk.User
	commands []sdk.CommandInfo
	kv       map[string]sdk.Entry
	revision uint64
	refusals map[string]*pluginpb.HostError
	requests []Request
	stored   map[string]int64 // the seq of each user's last message
}

// Request is one thing the plugin asked. Kind is server_info, count_users,
// list_users, list_commands, kv_get, kv_put, kv_delete, kv_list, send or broadcast.
type Request struct {
	Kind   string
	CallID string
	UserID string // of send
	Key    string // of kv_get, kv_put and kv_delete; the prefix of kv_list
	Text   string // of send and broadcast; the value of kv_put
}

func newHost(grants []sdk.Capability) *Host {
	h := &Host{grants: make(map[sdk.Capability]bool), kv: make(map[string]sdk.Entry), stored: make(map[string]int64), refusals: make(map[string]*pluginpb.HostError)}
	for _, c := range grants {
		h.grants[c] = true
	}
	h.info = sdk.ServerInfo{Name: "plugboard", Version: "0.0.0-test", Protocol: "plugboard.v1", StartedAt: time.Now()}
	return h
}

// SetServerInfo sets the answer to ServerInfo.
func (h *Host) SetServerInfo(info sdk.ServerInfo) { h.set(func() { h.info = info }) }

// SetUsers sets who exists. Registered counts them all, Connected those who are.
func (h *Host) SetUsers(users ...sdk.User) {
	users = slices.SortedFunc(slices.Values(users), func(a, b sdk.User) int { return strings.Compare(a.UserID, b.UserID) })
	h.set(func() { h.users = users })
}

// SetCommands sets the answer to ListCommands.
func (h *Host) SetCommands(commands ...sdk.CommandInfo) { h.set(func() { h.commands = commands }) }

// Refuse answers every request of this kind with an error until code is empty.
func (h *Host) Refuse(kind, code, message string) {
	h.set(func() {
		h.refusals[kind] = &pluginpb.HostError{Code: code, Message: message}
		if code == "" {
			delete(h.refusals, kind)
		}
	})
}

func (h *Host) set(change func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change()
}

// Requests are what the plugin has asked so far, in the order it was answered.
func (h *Host) Requests() []Request {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.requests)
}

// KV is a copy of the plugin's keys and values, without what has expired.
func (h *Host) KV() map[string]sdk.Entry {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.expireLocked()
	return maps.Clone(h.kv)
}

// answer is the reply to one request.
func (h *Host) answer(r *pluginpb.HostRequest) *pluginpb.HostReply {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.expireLocked()
	reply := &pluginpb.HostReply{RequestId: r.GetRequestId()}
	refuse := func(code, message string) *pluginpb.HostReply {
		reply.Reply = &pluginpb.HostReply_Error{Error: &pluginpb.HostError{Code: code, Message: message}}
		return reply
	}
	asked, need := requestOf(r)
	h.requests = append(h.requests, asked)
	if !h.grants[need] {
		return refuse("forbidden", "The capability was not granted.")
	}
	if e := h.refusals[asked.Kind]; e != nil {
		return refuse(e.GetCode(), e.GetMessage())
	}
	switch q := r.GetRequest().(type) {
	case *pluginpb.HostRequest_ServerInfo:
		reply.Reply = &pluginpb.HostReply_ServerInfo{ServerInfo: h.infoLocked()}
	case *pluginpb.HostRequest_CountUsers:
		reply.Reply = &pluginpb.HostReply_CountUsers{CountUsers: h.countLocked()}
	case *pluginpb.HostRequest_ListUsers:
		if badPage(q.ListUsers.GetLimit()) {
			return refuse("invalid_request", "The limit is not 0 to 500.")
		}
		reply.Reply = &pluginpb.HostReply_ListUsers{ListUsers: h.usersLocked(q.ListUsers)}
	case *pluginpb.HostRequest_ListCommands:
		if r.GetCallId() == "" {
			return refuse("forbidden", "Commands are listed for the caller of a call.")
		}
		reply.Reply = &pluginpb.HostReply_ListCommands{ListCommands: h.commandsLocked()}
	case *pluginpb.HostRequest_Send:
		if code := badText(q.Send.GetText()); code != "" {
			return refuse(code, "The text is empty, or does not fit into a frame.")
		}
		if !h.knownLocked(q.Send.GetUserId()) {
			return refuse("unknown_user", "No such user.")
		}
		seq := h.storeLocked(q.Send.GetUserId())
		reply.Reply = &pluginpb.HostReply_Send{Send: &pluginpb.SendReply{MessageId: fmt.Sprintf("message-%d", len(h.requests)), Seq: seq}}
	case *pluginpb.HostRequest_Broadcast:
		if code := badText(q.Broadcast.GetText()); code != "" {
			return refuse(code, "The text is empty, or does not fit into a frame.")
		}
		reply.Reply = &pluginpb.HostReply_Broadcast{Broadcast: &pluginpb.BroadcastReply{Recipients: h.countLocked().GetConnected()}}
	default:
		return h.answerKVLocked(r, reply, refuse)
	}
	return reply
}

// storeLocked gives the next message of a user its seq.
func (h *Host) storeLocked(userID string) int64 {
	h.stored[userID]++
	return h.stored[userID]
}

// badText is the code that a server of the default limits refuses a message with, or
// empty.
func badText(text string) string {
	frame := wire.Direct{ID: strings.Repeat("0", 36), From: "plugin:test", To: "user", Seq: wire.MaxInteger, ServerTime: wire.TimeFormat, Timestamp: wire.TimeFormat, Content: text}
	switch {
	case text == "":
		return "invalid_request"
	case len(frame.Append(nil)) > wire.DefaultMaxFrameBytes:
		return "too_large"
	}
	return ""
}

// badPage reports whether a server refuses to answer so many.
func badPage(limit int32) bool { return limit < 0 || limit > 500 }

func requestOf(r *pluginpb.HostRequest) (Request, sdk.Capability) {
	q := Request{CallID: r.GetCallId()}
	need := sdk.CapabilityKV
	switch m := r.GetRequest().(type) {
	case *pluginpb.HostRequest_ServerInfo:
		q.Kind, need = "server_info", sdk.CapabilityServer
	case *pluginpb.HostRequest_CountUsers:
		q.Kind, need = "count_users", sdk.CapabilityUsers
	case *pluginpb.HostRequest_ListUsers:
		q.Kind, need = "list_users", sdk.CapabilityUsers
	case *pluginpb.HostRequest_ListCommands:
		q.Kind, need = "list_commands", sdk.CapabilityCommands
	case *pluginpb.HostRequest_Send:
		q.Kind, need = "send", sdk.CapabilitySend
		q.UserID, q.Text = m.Send.GetUserId(), m.Send.GetText()
	case *pluginpb.HostRequest_Broadcast:
		q.Kind, need = "broadcast", sdk.CapabilityBroadcast
		q.Text = m.Broadcast.GetText()
	case *pluginpb.HostRequest_KvGet:
		q.Kind, q.Key = "kv_get", m.KvGet.GetKey()
	case *pluginpb.HostRequest_KvPut:
		q.Kind, q.Key, q.Text = "kv_put", m.KvPut.GetKey(), string(m.KvPut.GetValue())
	case *pluginpb.HostRequest_KvDelete:
		q.Kind, q.Key = "kv_delete", m.KvDelete.GetKey()
	case *pluginpb.HostRequest_KvList:
		q.Kind, q.Key = "kv_list", m.KvList.GetPrefix()
	}
	return q, need
}

func (h *Host) infoLocked() *pluginpb.ServerInfoReply {
	out := &pluginpb.ServerInfoReply{
		Name: h.info.Name, Version: h.info.Version, StartedAtUnixMs: h.info.StartedAt.UnixMilli(),
		UptimeMs: h.info.Uptime.Milliseconds(), GoVersion: h.info.GoVersion, Protocol: h.info.Protocol,
		Connections: int64(h.info.Connections),
	}
	for _, p := range h.info.Plugins {
		out.Plugins = append(out.Plugins, &pluginpb.PluginState{Name: p.Name, Version: p.Version, State: p.State})
	}
	return out
}

func (h *Host) countLocked() *pluginpb.CountUsersReply {
	out := &pluginpb.CountUsersReply{Registered: int64(len(h.users))}
	for _, u := range h.users {
		if u.Connected {
			out.Connected++
		}
	}
	return out
}

func (h *Host) knownLocked(id string) bool {
	return slices.ContainsFunc(h.users, func(u sdk.User) bool { return u.UserID == id })
}

func (h *Host) usersLocked(q *pluginpb.ListUsersRequest) *pluginpb.ListUsersReply {
	limit := int(q.GetLimit())
	if limit == 0 {
		limit = 100
	}
	out := &pluginpb.ListUsersReply{}
	for _, u := range h.users {
		if u.UserID <= q.GetAfter() || q.GetConnectedOnly() && !u.Connected {
			continue
		}
		if len(out.GetUsers()) == limit {
			out.Next = out.GetUsers()[limit-1].GetUserId()
			break
		}
		user := &pluginpb.User{UserId: u.UserID, Username: u.Username, Connected: u.Connected}
		if !u.ConnectedSince.IsZero() {
			user.ConnectedSinceUnixMs = u.ConnectedSince.UnixMilli()
		}
		out.Users = append(out.Users, user)
	}
	return out
}

func (h *Host) commandsLocked() *pluginpb.ListCommandsReply {
	out := &pluginpb.ListCommandsReply{}
	for _, c := range h.commands {
		info := &pluginpb.CommandInfo{
			Name: c.Name, Plugin: c.Plugin, Version: c.Version, Summary: c.Summary, Description: c.Description,
			ParamsSchema: c.Params, ResultSchema: c.Result, Streaming: c.Streaming, SignatureRequired: c.SignatureRequired,
		}
		for _, e := range c.Examples {
			info.Examples = append(info.Examples, &pluginpb.Example{Params: e.Params, Result: e.Result})
		}
		out.Commands = append(out.Commands, info)
	}
	return out
}
