from tidemill.loop.sync.follow import main

main()
