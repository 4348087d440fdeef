"""What the pictures have in common."""

# Okabe's and Ito's, which the colour-blind tell apart, and grey; black and red are left for the lines.
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#0072B2", "#8C6D31", "#8C8C8C", "#6A3D9A")
MARKERS = "osD^vPXp"
LIMIT_COLOUR = "#cf222e"
