//! A program that is forbidden a system call, as containers forbid some.
#![expect(unsafe_code, reason = "std cannot install a filter of system calls")]

use std::process::{Command, Output};

/// `io_uring_setup`, on every architecture.
const IO_URING_SETUP: u32 = 425;

/// Runs a command to its end; opening an io_uring fails with `error` in it.
pub fn output_without_io_uring(command: &mut Command, error: i32) -> Output {
    without_io_uring(error, || command.output().expect("the program starts"))
}

/// Runs `start` on a thread where opening an io_uring fails with `error`, as in all processes started there.
pub fn without_io_uring<T: Send>(error: i32, start: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let confined = scope.spawn(|| {
            forbid(error);
            start()
        });
        confined.join().expect("the confined thread ends well")
    })
}

fn forbid(error: i32) {
    let line =
        |code: u32, k: u32, skipped: u8| libc::sock_filter { code: code as u16, jt: 0, jf: skipped, k };
    let mut filter = [
        // The number of the call is the first word of what the filter sees.
        line(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        line(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, IO_URING_SETUP, 1),
        line(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | error as u32, 0),
        line(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the numbers are those of prctl(2), and the program lives longer than the call, which copies it. Both hold for
    // this thread and its children alone.
    let confined = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) == 0
    };
    assert!(confined, "{}", std::io::Error::last_os_error());
}
