package conformance

import "syscall"

// dieWithUs has the kernel kill the child when the thread that started it ends.
func dieWithUs(a *syscall.SysProcAttr) { a.Pdeathsig = syscall.SIGKILL }
