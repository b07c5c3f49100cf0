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
use lb_common::{Flow, FlowKey, SocketKey};

/// What a global function can take.
pub trait Argument: Sized {
    /// How the argument travels.
    type Raw;
    /// What the callee has to keep of the argument.
    type Room;

    fn pass(self) -> Self::Raw;

    /// `None` for a null pointer, which no caller of ours passes.
    ///
    /// # Safety
    /// `raw` is null or comes from [`Argument::pass`] of a caller that has not returned. `room` is the callee's and
    /// outlives the argument.
    unsafe fn receive(raw: Self::Raw, room: *mut Self::Room) -> Option<Self>;
}

/// Travels as a pointer.
pub trait ByPointer {}

impl<T: ByPointer> Argument for &T {
    type Raw = *const T;
    type Room = ();

    #[inline(always)]
    fn pass(self) -> *const T {
        self
    }

    #[inline(always)]
    unsafe fn receive(raw: *const T, _: *mut ()) -> Option<Self> {
        // SAFETY: the caller's contract.
        unsafe { raw.as_ref() }
    }
}

impl<T: ByPointer> Argument for &mut T {
    type Raw = *mut T;
    type Room = ();

    #[inline(always)]
    fn pass(self) -> *mut T {
        self
    }

    #[inline(always)]
    unsafe fn receive(raw: *mut T, _: *mut ()) -> Option<Self> {
        // SAFETY: the caller's contract.
        unsafe { raw.as_mut() }
    }
}

/// A key of a map travels as a pointer, and the callee copies it to its own stack: before Linux 6.2 the verifier lets
/// no helper read a key from where an argument of a global function points.
macro_rules! copied {
    ($($type:ty),+) => {$(
        impl Argument for &$type {
            type Raw = *const $type;
            type Room = $type;

            #[inline(always)]
            fn pass(self) -> *const $type {
                self
            }

            #[inline(always)]
            unsafe fn receive(raw: *const $type, room: *mut $type) -> Option<Self> {
                // SAFETY: the caller's contract.
                unsafe {
                    room.write(*raw.as_ref()?);
                    Some(&*room)
                }
            }
        }
    )+};
}

copied!(FlowKey, SocketKey);

impl ByPointer for Flow {}

macro_rules! as_it_is {
    ($($type:ty),+) => {$(
        impl Argument for $type {
            type Raw = Self;
            type Room = ();

            #[inline(always)]
            fn pass(self) -> Self {
                self
            }

            #[inline(always)]
            unsafe fn receive(raw: Self, _: *mut ()) -> Option<Self> {
                Some(raw)
            }
        }
    )+};
}

as_it_is!(u8, u32, u64, *mut __sk_buff);

impl Argument for bool {
    type Raw = u32;
    type Room = ();

    #[inline(always)]
    fn pass(self) -> u32 {
        self as u32
    }

    #[inline(always)]
    unsafe fn receive(raw: u32, _: *mut ()) -> Option<Self> {
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
/// null pointer; a function without arguments needs none.
macro_rules! global {
    (
        $(#[$meta:meta])*
        $vis:vis fn $name:ident() -> $answer:ty = $body:ident
    ) => {
        $crate::global::global!($(#[$meta])* $vis fn $name() -> $answer = $body, null: ());
    };
    (
        $(#[$meta:meta])*
        $vis:vis fn $name:ident($($arg:ident: $type:ty),*) -> $answer:ty = $body:ident, null: $null:expr
    ) => {
        $(#[$meta])*
        #[inline(always)]
        $vis fn $name($($arg: $type),*) -> $answer {
            use $crate::global::Answer;

            #[unsafe(no_mangle)]
            #[inline(never)]
            extern "C" fn $name($($arg: <$type as $crate::global::Argument>::Raw),*) -> <$answer as Answer>::Raw {
                $(
                    let mut room = ::core::mem::MaybeUninit::uninit();
                    let room = room.as_mut_ptr();
                    // SAFETY: the argument comes from the call below, or is null; the room is there until the return.
                    let received = unsafe { <$type as $crate::global::Argument>::receive($arg, room) };
                    let Some($arg) = received else { return Answer::encode($null) };
                )*
                Answer::encode($body($($arg),*))
            }

            Answer::decode($name($($crate::global::Argument::pass($arg)),*))
        }
    };
}

pub(crate) use {answer, global};
