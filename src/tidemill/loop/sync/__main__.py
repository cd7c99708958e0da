from tidemill.loop.sync.process import main

main()
