"""Claims, a file each: what is said, what is asked, the graph of runs that answers, and the criterion."""
