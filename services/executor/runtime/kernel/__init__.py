"""The seams to the kernel: system calls by number and name, programs of BPF, safe paths, threads."""
