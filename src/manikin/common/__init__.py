"""What hospital and coordinator both speak: errors, studies, images, generators, releases. No network code."""
