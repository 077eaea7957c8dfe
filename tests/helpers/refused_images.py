"""Unreadable files with names of images, and their errors."""

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
# file -> its error
REFUSED = {
    "holiday.jpg": "is EPS/PostScript, which is not a supported image format. Convert it to PNG or JPEG.",
    "line.png": "`image` must be at most 200 times as long as it is wide, got 1 x 1000000 pixels. Crop it.",
    "link.png": "must be a file, got a broken link to gone.png at",
    "pipe.png": "must be a file, got a named pipe at",
    "text.jpg": "cannot identify its format",
}

SKIPPED = "skipped 4 files that are not images: drawing.eps, notes.txt, page.pdf, ..."
