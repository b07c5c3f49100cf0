//! Global functions: code that the verifier checks once.
//!
//! The verifier walks an inlined function anew on every path that leads to it. A *global function* (a symbol of its
//! own that is never inlined) is checked once, for any argument, and a call is then one instruction: the bookkeeping
//! of flows took 157,000 verified instructions of a program when it was inlined, and takes 34,000 this way. The calling
//! convention is narrow: the verifier assumes that every pointer may be null; it reads r0 after the call, so that every
//! function returns a number; and a pointer to a context binds the function to one type of program.
//!
//! [`global!`] writes that convention down once. It wraps an ordinary function; callers and callee see references
//! and enums.

use aya_ebpf::bindings::__sk_buff;

/// What a global function can take.
pub trait Argument: Sized {
    /// How the argument travels.
    type Raw;

    fn pass(self) -> Self::Raw;

    /// `None` for a null pointer, which no caller of ours passes.
    ///
    /// # Safety
    /// `raw` is null or comes from [`Argument::pass`] of a caller that has not returned.
    unsafe fn receive(raw: Self::Raw) -> Option<Self>;
}

impl<T> Argument for &T {
    type Raw = *const T;

    #[inline(always)]
    fn pass(self) -> *const T {
        self
    }

    #[inline(always)]
    unsafe fn receive(raw: *const T) -> Option<Self> {
        // SAFETY: the caller's contract.
        unsafe { raw.as_ref() }
    }
}

impl<T> Argument for &mut T {
    type Raw = *mut T;

    #[inline(always)]
    fn pass(self) -> *mut T {
        self
    }

    #[inline(always)]
    unsafe fn receive(raw: *mut T) -> Option<Self> {
        // SAFETY: the caller's contract.
        unsafe { raw.as_mut() }
    }
}

macro_rules! as_it_is {
    ($($type:ty),+) => {$(
        impl Argument for $type {
            type Raw = Self;

            #[inline(always)]
            fn pass(self) -> Self {
                self
            }

            #[inline(always)]
            unsafe fn receive(raw: Self) -> Option<Self> {
                Some(raw)
            }
        }
    )+};
}

as_it_is!(u8, u32, u64, *mut __sk_buff);

impl Argument for bool {
    type Raw = u32;

    #[inline(always)]
    fn pass(self) -> u32 {
        self as u32
    }

    #[inline(always)]
    unsafe fn receive(raw: u32) -> Option<Self> {
        Some(raw != 0)
    }
}

/// What a global function can return.
pub trait Answer: Sized {
    /// How the answer travels.
    type Raw;

    fn encode(self) -> Self::Raw;

    fn decode(raw: Self::Raw) -> Self;
}

impl Answer for () {
    type Raw = u32;

    #[inline(always)]
    fn encode(self) -> u32 {
        0
    }

    #[inline(always)]
    fn decode(_: u32) {}
}

impl Answer for bool {
    type Raw = u32;

    #[inline(always)]
    fn encode(self) -> u32 {
        self as u32
    }

    #[inline(always)]
    fn decode(raw: u32) -> Self {
        raw != 0
    }
}

impl Answer for i32 {
    type Raw = Self;

    #[inline(always)]
    fn encode(self) -> Self {
        self
    }

    #[inline(always)]
    fn decode(raw: Self) -> Self {
        raw
    }
}

/// Lets a global function return a `wire_enum!` of `u32`; a number that no variant has is read as `$fallback`.
macro_rules! answer {
    ($enum:ident, $fallback:ident) => {
        impl $crate::global::Answer for $enum {
            type Raw = u32;

            #[inline(always)]
            fn encode(self) -> u32 {
                self.number()
            }

            #[inline(always)]
            fn decode(raw: u32) -> Self {
                Self::from_number(raw).unwrap_or(Self::$fallback)
            }
        }
    };
}

/// Makes `$body`, an inlined function with these arguments, the global function `$name`. `null` is its answer to a
/// null pointer.
macro_rules! global {
    (
        $(#[$meta:meta])*
        $vis:vis fn $name:ident($($arg:ident: $type:ty),+) -> $answer:ty = $body:ident, null: $null:expr
    ) => {
        $(#[$meta])*
        #[inline(always)]
        $vis fn $name($($arg: $type),+) -> $answer {
            use $crate::global::{Answer, Argument};

            #[unsafe(no_mangle)]
            #[inline(never)]
            extern "C" fn $name($($arg: <$type as Argument>::Raw),+) -> <$answer as Answer>::Raw {
                // SAFETY: the arguments come from the call below, or are null.
                let ($(Some($arg),)+) = (unsafe { ($(<$type as Argument>::receive($arg),)+) }) else {
                    return Answer::encode($null);
                };
                Answer::encode($body($($arg),+))
            }

            Answer::decode($name($(Argument::pass($arg)),+))
        }
    };
}

pub(crate) use {answer, global};
