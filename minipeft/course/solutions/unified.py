"""15_unified: one formula for many methods, and what many tasks take to store."""


def change(x, h, down, up, phi, insertion):
    """He et al.'s Δh: phi of x or of h times one matrix, times another.

    x is what h is made of: a parallel method reads x, a sequential one reads h.
    Shapes  x (T, d_in), h (T, d), down (r, d_in or d), up (d, r) -> (T, d)
    """
    reads = x if insertion == "parallel" else h
    return phi(reads @ down.T) @ up.T


def storage(tasks, base, added, copies):
    """Bytes of float32 that so many tasks need: a copy of the base each, or one base for all.

    base and added are numbers of parameters: the model's, and what one task adds to it
    """
    kept = tasks * base if copies else base + tasks * added
    return 4 * kept
