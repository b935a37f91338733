package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// self is this very executable, even when its file has been replaced since.
const self = "/proc/self/exe"

// What Landlock handles here, by the version of its interface that brought it.
const (
	accessFiles   = landlock.AccessFSSet(1<<16 - 1) // everything up to version 5
	accessNetwork = landlock.AccessNetSet(ll.AccessNetBindTCP | ll.AccessNetConnectTCP)
	scoped        = landlock.ScopedSet(1<<0 | 1<<1) // abstract Unix sockets and signals

	abiFiles, abiTruncate, abiNetwork, abiDevices, abiScopes = 1, 3, 4, 5, 6
)

// Detect says what this machine can enforce.
func Detect() Support {
	s := Support{Level: Full}
	abi, err := ll.LandlockGetABIVersion()
	if err != nil {
		abi = 0
	}
	for _, need := range []struct {
		version int
		what    string
	}{
		{abiFiles, "access to files (Landlock, Linux 5.13 and lsm=landlock)"},
		{abiTruncate, "truncating files (Landlock, Linux 6.2)"},
		{abiNetwork, "TCP (Landlock, Linux 6.7)"},
		{abiDevices, "device controls (Landlock, Linux 6.10)"},
		{abiScopes, "signals and abstract sockets (Landlock, Linux 6.12)"},
	} {
		if abi < need.version {
			s.Missing = append(s.Missing, need.what)
		}
	}
	filtered := seccomp.Supported()
	if !filtered {
		s.Missing = append(s.Missing, "system calls (seccomp)")
	}
	switch {
	case len(s.Missing) == 0:
	case abi == 0 && !filtered:
		s.Level = None
	default:
		s.Level = Partial
	}
	return s
}

// init makes every executable that links this package its own launcher: one that
// merely forgot to ask in its main would start itself again and again in the place of
// its plugins. Here it comes before main and before most other packages have been set
// up, which saves each start some milliseconds. In a launcher it does not return: it
// becomes the plugin, or says in one line on stderr why not and exits with 126.
func init() {
	if len(os.Args) != 2 || os.Args[0] != launcherName {
		return
	}
	fmt.Fprintln(os.Stderr, "sandbox:", launch(os.Args[1]))
	os.Exit(126)
}

// launch confines this process and executes the plugin in its place.
func launch(name string) error {
	// Capabilities belong to the thread, and the thread that executes is the one that
	// remains.
	runtime.LockOSThread()
	var p Policy
	if err := json.Unmarshal([]byte(os.Getenv(envPolicy)), &p); err != nil {
		return fmt.Errorf("read policy: %w", err)
	}
	env := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, envPolicy+"=") })
	syscall.Umask(0o077)
	for _, step := range []func() error{
		closeOthers,
		p.limit,
		p.restrictAccess,
		p.restrictCalls,
		dropCapabilities,
	} {
		if err := step(); err != nil {
			return err
		}
	}
	err := syscall.Exec(p.Binary, []string{name}, env) //nolint:gosec // what the host chose is to be run
	if errors.Is(err, syscall.EACCES) {
		return fmt.Errorf("execute plugin: %w (an interpreter outside /usr needs a grant such as exec:/opt/node/bin/node)", err)
	}
	return fmt.Errorf("execute plugin: %w", err)
}

// closeOthers keeps standard input and output and the lifeline.
func closeOthers() error {
	err := unix.CloseRange(4, ^uint(0)>>1&0x7fffffff, unix.CLOSE_RANGE_CLOEXEC)
	if err != nil && !errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("close inherited files: %w", err)
	}
	return nil // what our parent opens is closed at an exec anyway
}

func (p *Policy) limit() error {
	for _, l := range []struct {
		resource int
		most     uint64
		what     string
	}{
		{unix.RLIMIT_CORE, 0, "core dumps"},
		{unix.RLIMIT_NOFILE, p.Limits.OpenFiles, "open files"},
		{unix.RLIMIT_FSIZE, p.Limits.FileBytes, "file size"},
		{unix.RLIMIT_DATA, p.Limits.DataBytes, "memory"},
	} {
		if err := syscall.Setrlimit(l.resource, &syscall.Rlimit{Cur: l.most, Max: l.most}); err != nil {
			return fmt.Errorf("limit %s to %d: %w", l.what, l.most, err)
		}
	}
	return nil
}

// software is what the system itself consists of: readable by everybody, and what
// dynamically linked programs and interpreters need.
var software = [...]string{"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"}

// settings are files without secrets that runtimes insist on.
var settings = [...]string{"/etc/ld.so.cache", "/etc/localtime", "/etc/ssl/openssl.cnf"}

// network is what name resolution and TLS read.
var network = [...]string{
	"/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/gai.conf", "/etc/services", "/etc/host.conf",
	"/etc/ssl/certs", "/etc/ssl/cert.pem", "/etc/pki/tls", "/etc/pki/ca-trust", "/etc/ca-certificates", "/run/systemd/resolve",
}

// restrictAccess lays down which files, ports and processes can be reached. What the
// kernel does not know of is left out: whether that is enough was the host's decision.
func (p *Policy) restrictAccess() error {
	const (
		read  = ll.AccessFSReadFile
		write = ll.AccessFSReadFile | ll.AccessFSWriteFile
		run   = ll.AccessFSReadFile | ll.AccessFSExecute
	)
	rules := []landlock.Rule{
		landlock.PathAccess(run, p.Binary),
		landlock.RWDirs(p.Dir),
		landlock.RODirs(software[:]...).IgnoreIfMissing(),
		landlock.PathAccess(read, settings[:]...).IgnoreIfMissing(),
		landlock.PathAccess(write, "/dev/null", "/dev/zero", "/dev/full").IgnoreIfMissing(),
		landlock.PathAccess(read, "/dev/random", "/dev/urandom").IgnoreIfMissing(),
	}
	grant := func(paths []string, file, dir landlock.AccessFSSet) {
		for _, path := range paths {
			access := file
			if info, err := os.Stat(path); err == nil && info.IsDir() {
				access = dir
			}
			rules = append(rules, landlock.PathAccess(access, path).IgnoreIfMissing())
		}
	}
	const list = ll.AccessFSReadDir
	grant(p.Read, read, read|list)
	grant(p.Exec, run, run|list)
	grant(p.Write, write|ll.AccessFSTruncate, (1<<15-1)&^(ll.AccessFSExecute|ll.AccessFSMakeChar|ll.AccessFSMakeBlock|ll.AccessFSRefer))
	parts := []any{accessFiles, scoped}
	if p.Net {
		grant(network[:], read, read|list)
	} else {
		parts = append(parts, accessNetwork)
	}
	config, err := landlock.NewConfig(parts...)
	if err != nil {
		return fmt.Errorf("compose access rules: %w", err)
	}
	if err := config.BestEffort().Restrict(rules...); err != nil {
		return fmt.Errorf("restrict access: %w", err)
	}
	return nil
}

// refused are system calls that no plugin has a use for, and that kernels have been
// broken by, or that reach into other processes.
var refused = [...]string{
	"ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "pidfd_getfd", "kcmp",
	"mount", "umount2", "pivot_root", "chroot", "open_tree", "move_mount", "fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr",
	"unshare", "setns", "bpf", "perf_event_open", "userfaultfd", "keyctl", "add_key", "request_key",
	"kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module",
	"io_uring_setup", "io_uring_enter", "io_uring_register",
	"swapon", "swapoff", "reboot", "settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "sethostname", "setdomainname",
	// Landlock has no word on these, and what is opened already may still be changed.
	"chmod", "fchmodat", "fchmodat2", "chown", "lchown", "fchownat", "setxattr", "lsetxattr", "removexattr", "lremovexattr",
	"acct", "quotactl", "syslog", "vhangup", "name_to_handle_at", "open_by_handle_at", "personality",
}

const namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC |
	unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWTIME

// restrictCalls filters system calls. clone3 hides its flags from a filter, so it is
// answered as by a kernel that does not have it, and libraries fall back to clone.
func (p *Policy) restrictCalls() error {
	if !seccomp.Supported() {
		return nil
	}
	// A socket of a family that is not allowed, and MPTCP, which Landlock's rules for
	// TCP do not cover.
	families := []uint64{unix.AF_UNIX}
	if p.Net {
		families = append(families, unix.AF_INET, unix.AF_INET6)
	}
	var foreign seccomp.ArgumentConditions
	for _, family := range families {
		foreign = append(foreign, seccomp.Condition{Argument: 0, Operation: seccomp.NotEqual, Value: family})
	}
	conditional := []seccomp.NameWithConditions{
		{Name: "socket", Conditions: foreign},
		{Name: "socketpair", Conditions: seccomp.ArgumentConditions{{Argument: 0, Operation: seccomp.NotEqual, Value: unix.AF_UNIX}}},
		{Name: "clone", Conditions: seccomp.ArgumentConditions{{Argument: 0, Operation: seccomp.BitsSet, Value: namespaces}}},
	}
	names := slices.Clone(refused[:])
	if p.Net {
		conditional = append(conditional, seccomp.NameWithConditions{
			Name: "socket", Conditions: seccomp.ArgumentConditions{{Argument: 2, Operation: seccomp.Equal, Value: unix.IPPROTO_MPTCP}},
		})
	} else {
		// It listens, it never calls anybody: not the server's own sockets either.
		names = append(names, "connect")
	}
	machine, err := arch.GetInfo("")
	if err != nil {
		return fmt.Errorf("filter system calls: %w", err)
	}
	names = slices.DeleteFunc(names, func(name string) bool {
		_, known := machine.SyscallNames[name] // newer processors lack the older calls
		return !known
	})
	err = seccomp.LoadFilter(seccomp.Filter{NoNewPrivs: true, Flag: seccomp.FilterFlagTSync, Policy: seccomp.Policy{
		DefaultAction: seccomp.ActionAllow,
		Syscalls: []seccomp.SyscallGroup{
			{Action: seccomp.ActionErrno, Names: names, NamesWithCondtions: conditional},
			{Action: seccomp.ActionErrno | seccomp.Action(unix.ENOSYS), Names: []string{"clone3"}},
		},
	}})
	if err != nil {
		return fmt.Errorf("filter system calls: %w", err)
	}
	return nil
}

// dropCapabilities leaves a server that runs as root with plugins that are root in
// name only. No new privileges keeps the execution from giving them back.
func dropCapabilities() error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("give up new privileges: %w", err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var nothing [2]unix.CapUserData
	if err := unix.Capset(&header, &nothing[0]); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	return nil
}
