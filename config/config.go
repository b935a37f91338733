package config

import (
	"net/netip"
	"time"
)

// Config is every setting of the server, in the groups of the file. Paths are
// relative to the working directory.
type Config struct {
	DataDir  string   `koanf:"data_dir" doc:"Directory of the database and the keys; created with mode 0700." unit:"path"`
	Server   Server   `koanf:"server" doc:"Where the server listens and what it is called."`
	TLS      TLS      `koanf:"tls" doc:"Encryption of the public listener."`
	Auth     Auth     `koanf:"auth" doc:"Registration and sign-in."`
	Storage  Storage  `koanf:"storage" doc:"The database."`
	Messages Messages `koanf:"messages" doc:"Direct messages."`
	Limits   Limits   `koanf:"limits" doc:"What one client, and all of them, may use."`
	Plugins  Plugins  `koanf:"plugins" doc:"The plugins and what they may do."`
	Log      Log      `koanf:"log" doc:"The server's own log, on standard error."`
}

// Server is where the server listens and what it is called.
type Server struct {
	Listen          string         `koanf:"listen" doc:"Address of the public listener." unit:"host:port"`
	AdminListen     string         `koanf:"admin_listen" doc:"Address of metrics and health; an empty text is off." unit:"host:port"`
	Hosts           Hosts          `koanf:"hosts" doc:"Names by which clients reach the server, and for which a login may be signed. An entry without a port means ports 80 and 443, or any port for a loopback name." unit:"list of host or host:port"`
	AllowedOrigins  []string       `koanf:"allowed_origins" doc:"Web origins that may connect besides the server's own." unit:"list of scheme://host[:port]"`
	AllowQueryToken string         `koanf:"allow_query_token" doc:"Whether /ws takes a token as ?token=, which logs and histories keep: loopback is only while listening there." unit:"loopback, on or off"`
	TrustedProxies  []netip.Prefix `koanf:"trusted_proxies" doc:"Networks of the proxies whose X-Forwarded-For counts." unit:"list of CIDRs"`
	ShutdownGrace   time.Duration  `koanf:"shutdown_grace" doc:"How long a stop may take before what is left is cut off." unit:"duration"`
}

// TLS is the encryption of the public listener.
type TLS struct {
	Mode     string `koanf:"mode" doc:"off, or files for the two files below. Off on an address that is not loopback must be said here: a proxy encrypts then." unit:"off or files"`
	CertFile string `koanf:"cert_file" doc:"Certificate chain in PEM; read again when it changes." unit:"path"`
	KeyFile  string `koanf:"key_file" doc:"Private key in PEM; read again when it changes." unit:"path"`
}

// Auth is registration and sign-in (docs/protocol.md).
type Auth struct {
	Registration string        `koanf:"registration" doc:"Who may register: open is everybody, closed is nobody." unit:"open or closed"`
	TokenTTL     time.Duration `koanf:"token_ttl" doc:"How long a session token is good; clients renew it before." unit:"duration, at most 1h"`
	ChallengeTTL time.Duration `koanf:"challenge_ttl" doc:"How long a login challenge may be answered." unit:"duration, at most 60s"`
	Issuer       string        `koanf:"issuer" doc:"The iss claim of tokens."`
	Audience     string        `koanf:"audience" doc:"The aud claim of tokens."`
	Keys         string        `koanf:"keys" doc:"Directory of the server's own keys; empty is keys in data_dir." unit:"path"`
}

// Storage is the database.
type Storage struct {
	Driver      string `koanf:"driver" doc:"The database engine." unit:"sqlite"`
	DSN         Secret `koanf:"dsn" doc:"The database file; empty is plugboard.db in data_dir." unit:"path, secret"`
	Synchronous string `koanf:"synchronous" doc:"full survives a power cut; normal is faster and may lose what was just acknowledged." unit:"full or normal"`
}

// Messages is about direct messages.
type Messages struct {
	RequireEncryption bool          `koanf:"require_encryption" doc:"Whether messages that are not sealed end to end are refused." unit:"true or false"`
	MailboxLimit      int           `koanf:"mailbox_limit" doc:"Undelivered messages that are kept for one user; beyond it senders are told mailbox_full." unit:"messages"`
	Retention         time.Duration `koanf:"retention" doc:"Delivered messages older than this are removed." unit:"duration"`
}

// Limits is what one client, and all of them, may use.
type Limits struct {
	MaxFrameBytes         Size    `koanf:"max_frame_bytes" doc:"Largest frame in either direction." unit:"size, 1KiB to 1MiB"`
	MessagesPerSecond     float64 `koanf:"messages_per_second" doc:"Messages and calls a user may send in the long run." unit:"per second"`
	Burst                 int     `koanf:"burst" doc:"Messages and calls a user may send at once." unit:"messages"`
	AuthPerMinute         int     `koanf:"auth_per_minute" doc:"Requests to the sign-in routes from one address (IPv6: one /64)." unit:"per minute"`
	Connections           int     `koanf:"connections" doc:"Open connections in all." unit:"connections"`
	ConnectionsPerUser    int     `koanf:"connections_per_user" doc:"Open connections of one user." unit:"connections"`
	ConnectionsPerAddress int     `koanf:"connections_per_address" doc:"Open connections from one address." unit:"connections"`
	SendQueue             int     `koanf:"send_queue" doc:"Frames that may wait for one connection." unit:"frames"`
}

// Plugins is the plugins and what they may do (docs/plugin.md).
type Plugins struct {
	Dir           string                    `koanf:"dir" doc:"Directory of the plugins; empty is plugins beside the executable." unit:"path"`
	Trust         string                    `koanf:"trust" doc:"owned runs every file that nobody else could have written, locked only those that stand in plugins.lock beside them." unit:"owned or locked"`
	Sandbox       string                    `koanf:"sandbox" doc:"Confines each plugin as far as the kernel can (auto), or runs none that cannot be confined in full (require)." unit:"auto, require or off"`
	StartTimeout  time.Duration             `koanf:"start_timeout" doc:"How long a plugin may take to be ready." unit:"duration"`
	CallTimeout   time.Duration             `koanf:"call_timeout" doc:"Time limit of a call where its command names none." unit:"duration"`
	DrainTimeout  time.Duration             `koanf:"drain_timeout" doc:"How long calls in flight may go on when a plugin is stopped or replaced." unit:"duration"`
	MaxConcurrent int                       `koanf:"max_concurrent" doc:"Calls that run at once in one plugin." unit:"calls"`
	Settings      map[string]map[string]any `koanf:"settings" doc:"Per plugin: an object that is handed to it, checked with its own schema."`
	Grants        map[string][]string       `koanf:"grants" doc:"Per plugin: what it may ask of the server, and what its process may reach. A plugin named here has exactly these." unit:"list of server, users, commands, kv, send, broadcast, net, read:/path, write:/path, exec:/path, observe"`
	Access        map[string]Access         `koanf:"access" doc:"Per command, or per plugin for all its commands: who may run it and how often."`
}

// Access is the policy for one command, or for all commands of one plugin. The
// zero value restricts nothing.
type Access struct {
	Roles            []string      `koanf:"roles" doc:"The caller needs one of these; none lets every user run it." unit:"list of roles"`
	RequireSignature bool          `koanf:"require_signature" doc:"Only calls signed by the caller's identity key are run." unit:"true or false"`
	Rate             float64       `koanf:"rate" doc:"Calls per second of each user; 0 is no limit of its own." unit:"per second"`
	Timeout          time.Duration `koanf:"timeout" doc:"Time limit of a call; 0s leaves it to the author and plugins.call_timeout." unit:"duration"`
	Enabled          *bool         `koanf:"enabled" doc:"false hides the command as if it did not exist." unit:"true or false"`
	LogParams        bool          `koanf:"log_params" doc:"Whether the command log keeps the parameters." unit:"true or false"`
}

// Log is the server's own log.
type Log struct {
	Level  string `koanf:"level" doc:"The least important lines that are written." unit:"debug, info, warn or error"`
	Format string `koanf:"format" doc:"auto is console on a terminal and json elsewhere." unit:"auto, console or json"`
}

// Default returns the settings with which the server starts on loopback with no
// configuration at all. Values that follow from others or from the machine
// (server.hosts, auth.keys, storage.dsn, plugins.dir) are empty; [Load] fills
// them.
func Default() Config {
	return Config{
		DataDir: "./data",
		Server: Server{
			Listen: "127.0.0.1:8080", AdminListen: "127.0.0.1:9090", Hosts: Hosts{}, AllowedOrigins: []string{},
			AllowQueryToken: "loopback", TrustedProxies: []netip.Prefix{}, ShutdownGrace: 10 * time.Second,
		},
		TLS: TLS{Mode: "off"},
		Auth: Auth{
			Registration: "open", TokenTTL: time.Hour, ChallengeTTL: time.Minute, Issuer: "plugboard", Audience: "plugboard",
		},
		Storage:  Storage{Driver: "sqlite", Synchronous: "full"},
		Messages: Messages{RequireEncryption: true, MailboxLimit: 10_000, Retention: 720 * time.Hour},
		Limits: Limits{
			MaxFrameBytes: 64 * KiB, MessagesPerSecond: 10, Burst: 20, AuthPerMinute: 600,
			Connections: 20_000, ConnectionsPerUser: 16, ConnectionsPerAddress: 1000, SendQueue: 256,
		},
		Plugins: Plugins{
			Trust: "owned", Sandbox: "auto",
			StartTimeout: 10 * time.Second, CallTimeout: 30 * time.Second, DrainTimeout: 30 * time.Second, MaxConcurrent: 64,
			Settings: map[string]map[string]any{},
			Grants:   map[string][]string{"serverinfo": {"server"}, "usercount": {"users"}, "listcommands": {"commands"}},
			Access:   map[string]Access{},
		},
		Log: Log{Level: "info", Format: "auto"},
	}
}
