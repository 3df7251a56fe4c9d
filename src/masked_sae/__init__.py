import os

# Read once, when torch is loaded. Memory in huge pages: without them a CPU spends a tenth of a step on clearing new
# pages. Threads that wait give way: beside another busy process they would spin instead.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
