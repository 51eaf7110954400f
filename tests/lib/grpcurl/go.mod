module grpcurl

go 1.21

require github.com/fullstorydev/grpcurl v1.9.3
