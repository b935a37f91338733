//go:build linux

// Command hostile does what a plugin must not be able to do, one act per line on
// stdout: its name, and "possible" or "refused" with the reason. Tests run it with and
// without the sandbox.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The arguments: a directory prepared by the test, and which act, where it is one
// that ends the process.
func main() {
	signal.Ignore(syscall.SIGTERM, syscall.SIGINT)
	dir, own := os.Getenv("HOSTILE_DIR"), os.Getenv("HOSTILE_OWN")
	switch os.Getenv("HOSTILE_ACT") {
	case "memory":
		memory()
	case "interpreter":
		_ = syscall.Exec("/bin/sh", []string{"sh", "-c", "echo from the shell"}, os.Environ())
	}
	for _, a := range acts(dir, own) {
		if err := a.do(); err != nil {
			fmt.Printf("%s\trefused\t%v\n", a.name, err)
		} else {
			fmt.Printf("%s\tpossible\t\n", a.name)
		}
	}
}

func memory() {
	var all [][]byte
	for range 4096 {
		b := make([]byte, 1<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		all = append(all, b)
	}
	fmt.Println("memory\tpossible\t", len(all))
	os.Exit(0)
}

type act struct {
	name string
	do   func() error
}

func call(number uintptr, args ...uintptr) error {
	var a [6]uintptr
	copy(a[:], args)
	r, _, errno := unix.Syscall6(number, a[0], a[1], a[2], a[3], a[4], a[5])
	switch {
	case errno == unix.EPERM || errno == unix.EACCES || errno == unix.ENOSYS:
		return errno
	case errno != 0:
		// It got past every guard and failed for the arguments that we gave.
		return nil
	}
	_ = r
	return nil
}

func socket(domain, kind, protocol int) func() error {
	return func() error {
		fd, err := unix.Socket(domain, kind, protocol)
		if err == nil {
			_ = unix.Close(fd)
		}
		return err
	}
}

func acts(dir, own string) []act {
	parent := os.Getppid()
	proc := "/proc/" + strconv.Itoa(parent)
	read := func(path string) func() error {
		return func() error { _, err := os.ReadFile(path); return err }
	}
	dial := func(network, address string) func() error {
		return func() error {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			c, err := new(net.Dialer).DialContext(ctx, network, address)
			if err == nil {
				_ = c.Close()
			}
			return err
		}
	}
	return []act{
		// What a plugin needs.
		{"+ write in its run directory", func() error { return os.WriteFile(filepath.Join(own, "file"), []byte("x"), 0o600) }},
		{"+ rename there", func() error { return os.Rename(filepath.Join(own, "file"), filepath.Join(own, "other")) }},
		{"+ unix socket there", func() error {
			l, err := net.Listen("unix", filepath.Join(own, "s"))
			if err == nil {
				err = l.Close()
			}
			return err
		}},
		{"+ read system software", read("/usr/bin/env")},
		{"+ random", read64("/dev/urandom")},

		{"read the server's key", read(filepath.Join(dir, "secret.key"))},
		{"list the server's data", func() error { _, err := os.ReadDir(dir); return err }},
		{"write beside the server's data", func() error { return os.WriteFile(filepath.Join(dir, "new"), nil, 0o600) }},
		{"truncate the server's key", func() error { return os.Truncate(filepath.Join(dir, "victim"), 0) }},
		{"remove a file of the server", func() error { return os.Remove(filepath.Join(dir, "victim")) }},
		{"read another plugin's directory", read(filepath.Join(filepath.Dir(own), "neighbour", "file"))},
		{"read the home directory", func() error { _, err := os.ReadDir("/root"); return err }},
		{"read passwords", read("/etc/shadow")},
		{"open the server's key to all", func() error { return os.Chmod(filepath.Join(dir, "secret.key"), 0o666) }},
		{"replace its own binary", func() error {
			fresh := filepath.Join(own, "fresh")
			if err := os.WriteFile(fresh, nil, 0o600); err != nil {
				return err
			}
			return os.Rename(fresh, os.Getenv("HOSTILE_BINARY"))
		}},
		{"read the server's environment", read(proc + "/environ")},
		{"open the server's memory", func() error {
			f, err := os.OpenFile(proc+"/mem", os.O_RDONLY, 0)
			if err == nil {
				_ = f.Close()
			}
			return err
		}},
		{"trace the server", func() error {
			err := unix.PtraceSeize(parent)
			if err == nil {
				_ = unix.PtraceDetach(parent)
			}
			return err
		}},
		{"read from the server's memory", func() error {
			return call(unix.SYS_PROCESS_VM_READV, uintptr(parent), 0, 0, 0, 0, 0)
		}},
		{"take the server's descriptors", func() error { return call(unix.SYS_PIDFD_GETFD, ^uintptr(0), 0, 0) }},
		{"signal the server", func() error { return syscall.Kill(parent, syscall.SIGWINCH) }},
		{"connect over TCP", dial("tcp", os.Getenv("HOSTILE_TCP"))},
		{"listen on TCP", func() error {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err == nil {
				_ = l.Close()
			}
			return err
		}},
		{"send over UDP", dial("udp", "127.0.0.1:9")},
		{"MPTCP socket", socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP)},
		{"raw socket", socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)},
		{"packet socket", socket(unix.AF_PACKET, unix.SOCK_RAW, 0)},
		{"netlink socket", socket(unix.AF_NETLINK, unix.SOCK_RAW, 0)},
		{"connect to a unix socket of the server", dial("unix", filepath.Join(dir, "admin.sock"))},
		{"connect to an abstract socket", dial("unix", "@"+os.Getenv("HOSTILE_ABSTRACT"))},
		{"user namespace", func() error { return unix.Unshare(unix.CLONE_NEWNS) }},
		{"enter a namespace", func() error { return call(unix.SYS_SETNS, ^uintptr(0), 0) }},
		{"mount", func() error { return call(unix.SYS_MOUNT, 0, 0, 0, 0, 0) }},
		{"chroot", func() error { return unix.Chroot(own) }},
		{"bpf", func() error { return call(unix.SYS_BPF, 0, 0, 0) }},
		{"perf events", func() error { return call(unix.SYS_PERF_EVENT_OPEN, 0, 0, 0, 0, 0) }},
		{"userfaultfd", func() error { return call(unix.SYS_USERFAULTFD, 0) }},
		{"io_uring", func() error { return call(unix.SYS_IO_URING_SETUP, 1, 0) }},
		{"kernel keys", func() error { return call(unix.SYS_KEYCTL, 0, 0, 0) }},
		{"set the clock", func() error { return call(unix.SYS_CLOCK_SETTIME, unix.CLOCK_REALTIME, 0) }},
		{"raise its limits", func() error {
			var now syscall.Rlimit
			if err := syscall.Getrlimit(unix.RLIMIT_FSIZE, &now); err != nil {
				return err
			}
			return syscall.Setrlimit(unix.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 1 << 40, Max: 1 << 40})
		}},
		{"capabilities", func() error {
			header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
			var data [2]unix.CapUserData
			if err := unix.Capget(&header, &data[0]); err != nil {
				return err
			}
			if data[0].Effective|data[0].Permitted|data[1].Effective|data[1].Permitted == 0 {
				return errors.New("it has none")
			}
			return nil
		}},
		{"new privileges by an execution", func() error {
			set, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
			if err == nil && set == 1 {
				err = errors.New("given up")
			}
			return err
		}},
		{"1,000 open files", func() error {
			var open []int
			defer func() {
				for _, fd := range open {
					_ = unix.Close(fd)
				}
			}()
			for range 1000 {
				fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
				if err != nil {
					return err
				}
				open = append(open, fd)
			}
			return nil
		}},
		{"a file of 1 GiB", func() error {
			signal.Ignore(syscall.SIGXFSZ)
			path := filepath.Join(own, "large")
			f, err := os.Create(path)
			if err != nil {
				return err
			}
			err = f.Truncate(1 << 30)
			_ = f.Close()
			_ = os.Remove(path)
			return err
		}},
		{"a core dump", func() error {
			var limit syscall.Rlimit
			if err := syscall.Getrlimit(unix.RLIMIT_CORE, &limit); err != nil {
				return err
			}
			if limit.Max == 0 {
				return errors.New("limited to nothing")
			}
			return nil
		}},
		{"a child that escapes", func() error {
			out, err := exec.Command("/bin/cat", filepath.Join(dir, "secret.key")).CombinedOutput()
			if err != nil {
				return errors.New(strings.TrimSpace(string(out)))
			}
			return nil
		}},
	}
}

// read64 reads a little of something without an end.
func read64(path string) func() error {
	return func() error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		_, err = f.Read(make([]byte, 64))
		return err
	}
}
