package pluginhost

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// childAttributes gives a plugin a process group of its own and has the kernel
// kill it when the thread that started it ends, however it ends.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// reap waits for the child's exit, ends what it left in its group, and only then
// takes its exit status: as long as nobody has, neither its process id nor its
// group's can belong to anybody else.
func (p *process) reap(pid int) {
	for errors.Is(unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil), syscall.EINTR) {
		continue
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = syscall.Kill(-pid, syscall.SIGKILL) // nobody left is no error
	_ = p.cmd.Wait()                        // the exit status is read from ProcessState
	p.reaped = true
}

func changeTime(s *syscall.Stat_t) int64 { return s.Ctim.Nano() }

// isWritten reports whether somebody has the file open for writing. A lease for
// reading is only given where nobody has; known is false where leases cannot be had,
// as for another user's file.
func isWritten(path string) (written, known bool) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return false, false
	}
	defer func() { _ = unix.Close(fd) }() // read-only: nothing is lost
	switch _, err := unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_RDLCK); {
	case errors.Is(err, unix.EAGAIN):
		return true, true
	case err != nil:
		return false, false
	}
	_, err = unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_UNLCK)
	return false, err == nil
}
